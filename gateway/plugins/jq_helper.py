"""A process that runs jq programs for a worker, started as a script: it knows nothing of the gateway.

    python -I -S jq_helper.py DIRECTORY-OF-THE-LIBRARY BYTES-OF-MEMORY        a socket is its standard input

    ask     time_ms, longest answer, length of program, of body, then both. A body of CHECK: compile only
    answer  a letter, length, text:  o it is this   e the program says so   u the body is no JSON   n not one value
                                     l longer than asked for

What a program could reach is not there: the environment is empty, no file can be opened (so there is no `import`
either), none written, no process started; memory is bounded. An alarm ends the process where a program takes longer
than it may, whatever it does and whether the worker is still there; without a worker the next read ends it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import socket
import struct
import sys
from typing import Any

ASK, ANSWER = struct.Struct("!IIII"), struct.Struct("!cI")
CHECK = 0xFFFF_FFFF
MOST_PROGRAMS = 64
FILES = 3  # standard input, output and error, which are open


def main() -> None:
    sys.path.append(sys.argv[1])
    jq = importlib.import_module("jq")
    _run(jq.compile("."), b"[0.1]")  # whatever Python loads when it is first needed
    os.chdir("/")
    os.environ.clear()  # of what Python itself has put there (PEP 538)
    _confine(int(sys.argv[2]))
    with socket.socket(fileno=0) as sock:
        _serve(sock, jq)


def _confine(memory_bytes: int) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    bounds = {"RLIMIT_NOFILE": FILES, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0, "RLIMIT_NPROC": 0, "RLIMIT_AS": memory_bytes}
    for name, bound in bounds.items():
        with contextlib.suppress(ValueError):  # not all systems have all of them
            resource.setrlimit(getattr(resource, name), (bound, bound))


def _serve(sock: socket.socket, jq: Any) -> None:
    programs: dict[bytes, Any] = {}
    while head := _read(sock, ASK.size):
        time_ms, longest, of_program, of_body = ASK.unpack(head)
        program = _read(sock, of_program)
        body = b"" if of_body == CHECK else _read(sock, of_body)
        signal.setitimer(signal.ITIMER_REAL, time_ms / 1000)
        try:
            if program not in programs:
                if len(programs) >= MOST_PROGRAMS:
                    programs.clear()
                programs[program] = jq.compile(program.decode())
            letter, text = (b"o", "") if of_body == CHECK else _run(programs[program], body)
        except ValueError as error:
            letter, text = b"e", str(error)
        said = text.encode(errors="replace")
        if len(said) > longest:
            letter, said = (b"l", b"") if letter == b"o" else (letter, said[:longest])
        signal.setitimer(signal.ITIMER_REAL, 0)
        sock.sendall(ANSWER.pack(letter, len(said)) + said)


def _run(program: Any, body: bytes) -> tuple[bytes, str]:
    """Raises ValueError with what the program says."""
    try:
        text = body.removeprefix(b"\xef\xbb\xbf").decode()
        STRICT.decode(text)  # jq reads NaN, several texts one after the other and more
    except (ValueError, RecursionError) as error:
        return b"u", error.msg if isinstance(error, json.JSONDecodeError) else "it cannot be represented"
    said = program.input_text(text).text()
    if not said or "\n" in said:  # values are on a line each; a line end inside of a text is escaped
        return b"n", "no value" if not said else "several values"
    return b"o", said


def _read(sock: socket.socket, size: int) -> bytes:
    """Empty at the end of the other side."""
    found = bytearray()
    while len(found) < size:
        said = sock.recv(min(size - len(found), 1 << 20))
        if not said:
            return b""
        found += said
    return bytes(found)


def _refused(word: str) -> Any:
    raise ValueError(word)


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(text)
    return number


#: RFC 8259: no NaN, no number beyond a double. Here, for a script cannot ask `gateway.plugins.bodies`, which asks us.
STRICT = json.JSONDecoder(parse_constant=_refused, parse_float=_finite)

if __name__ == "__main__":
    main()
