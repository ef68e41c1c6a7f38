"""Targets that close their connections right after answering: no GET is lost, and no POST is sent twice."""

from __future__ import annotations

import http.client
import threading
from collections import Counter

from tests.e2e.gateway import Gateway
from tests.hazards.test_targets import configure, target
from tests.upstream import OK, Wire

TIMES, CLIENTS = 2000, 4


def test_connections_closed_after_each_answer_lose_no_get_and_repeat_no_post(gateway: Gateway) -> None:
    seen: Counter[bytes] = Counter()

    async def fickle(wire: Wire) -> None:
        head = await wire.head()
        if head:
            seen[head.split(b" ", 2)[1]] += 1
            if head.startswith(b"POST"):
                await wire.body(1)
            await wire.send(OK)  # says nothing of closing, and closes

    with target(fickle) as port:
        configure(gateway, port, eject_after=0)
        statuses: dict[str, Counter[int]] = {"GET": Counter(), "POST": Counter()}

        def client(method: str, share: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
            for number in range(TIMES // CLIENTS):
                connection.request(method, f"/{method}/{share}/{number}", b"x" if method == "POST" else None)
                answer = connection.getresponse()
                answer.read()
                statuses[method][answer.status] += 1
            connection.close()

        for method in statuses:
            clients = [threading.Thread(target=client, args=[method, share]) for share in range(CLIENTS)]
            for one in clients:
                one.start()
            for one in clients:
                one.join(120)
        posts = {path: count for path, count in seen.items() if path.startswith(b"/POST/")}
    assert statuses["GET"] == {200: TIMES}
    assert statuses["POST"].total() == TIMES
    assert set(statuses["POST"]) <= {200, 502}
    assert set(posts.values()) == {1}
    assert len(posts) >= statuses["POST"][200]
