// The live feed: frames of one second over a WebSocket, as `hg:live` events of the document. While there is none, the
// page is as the server rendered it: correct, only not live. Reconnects with growing pauses; rests in a hidden tab.

const PAUSE_MS = [1000, 2000, 4000, 8000, 15000, 30000];
const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/dashboard/live`;

let socket = null;
let failures = 0;
let timer = 0;
let rows = false;

const say = (name, detail) => document.dispatchEvent(new CustomEvent(name, { detail }));

function connect() {
  clearTimeout(timer);
  if (socket || document.hidden) return;
  const mine = socket = new WebSocket(url);
  mine.onopen = () => { if (rows) mine.send('{"rows": true}'); };
  mine.onmessage = (message) => {
    failures = 0;
    const frame = JSON.parse(message.data);
    mine.send(JSON.stringify({ ack: frame.t }));
    say(frame.connected ? "hg:live" : "hg:live-off", frame);
  };
  mine.onclose = () => {
    if (socket !== mine) return;
    socket = null;
    say("hg:live-off", null);
    const pause = PAUSE_MS[Math.min(failures++, PAUSE_MS.length - 1)];
    timer = setTimeout(connect, pause * (0.75 + Math.random() / 2));
  };
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return connect();
  clearTimeout(timer);
  const old = socket;
  socket = null;
  old?.close();
});

/** Begin. With `{rows: true}` frames bring sampled requests, too. */
export function watch(options = {}) {
  rowsWanted(options.rows ?? rows);
  connect();
}

export function rowsWanted(wanted) {
  rows = wanted;
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ rows }));
}
