"""Every way to spell a protected path: nothing reaches the origin without the plugin that stands before it.

The origin here is the worst there is: a request counts as one for the protected path if any server might take it for
that. The readers below are written for this test alone, and share nothing with the gateway's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

import pytest

from tests.e2e.gateway import Gateway, route, upstream
from tests.hazards.origin import Origin, RawClient, origin

#: `{p}` is the protected prefix without its slash, `{q}` the same with its first letter encoded.
SPELLINGS = [
    "/{p}/x", "/{p}", "/{p}/", "//{p}/x", "///{p}//x", "/./{p}/x", "/{p}/./x", "/public/../{p}/x", "/public/./../{p}/x",
    "/public//../{p}/x", "/../{p}/x", "/../../{p}/x", "/public/x/../../{p}/x", "/{p}/../{p}/x", "/public/..//{p}/x",
    "/{q}/x", "/%2f{p}/x", "/%2F%2F{p}/x", "/public/%2e%2e/{p}/x", "/public/%2E%2E/{p}/x", "/public/.%2e/{p}/x",
    "/public/%2e./{p}/x", "/public%2f..%2f{p}%2fx", "/public/..%2f{p}/x", "/public%2f../{p}/x", "/%2e/{p}/x",
    "/{p}%2fx", "/{p}%2Fx", "/%252f{p}/x", "/public/%252e%252e/{p}/x", "/public/..%252f{p}/x", "/%25{q1}/x",
    "/public/%25252e%25252e/{p}/x", "/public/%2525252e%2525252e/{p}/x", "/\\{p}/x", "\\{p}\\x", "/public\\..\\{p}\\x",
    "/public/..\\{p}/x", "/public\\../{p}/x", "/%5c{p}/x", "/public/..%5c{p}/x", "/public%5C..%5C{p}%5Cx",
    "/%255c{p}/x", "/{p};x", "/{p};a=b/x", "/{p};/x", "/;/{p}/x", "/public/..;/{p}/x", "/public/..;a=b/{p}/x",
    "/public;/../{p}/x", "/public/;/../{p}/x", "/public/.;/../{p}/x", "/{p}%3bx/y", "/public/..%3b/{p}/x",
    "/public/%2e%2e%3b/{p}/x", "/public/%2e%2e;/{p}/x", "/{p}%3fx", "/{p}%23x", "/{p}/%3f/../../public",
    "/public/%c0%ae%c0%ae/{p}/x", "/public/..%c0%af{p}/x", "/public/%e0%80%ae%e0%80%ae/{p}/x", "/{p}%00/x",
    "/{p}%0a/x", "/{p}%09", "/{p}\t/x", "/{p}\x01/x", "/.//{p}/x", "/public/x;/..;/..;/{p}/x", "/%2e%2f{p}/x",
    "http://a.test/{p}/x", "http://a.test/public/../{p}/x", "http://a.test//{p}/x", "http://a.test\\{p}/x",
    "/public/%2f/../../{p}/x", "/public%2f%2e%2e%5c%2e%2e/{p}/x", "/{p}/..%2f{p}/x",
]  # fmt: skip
MARK = "x-passed"


@pytest.fixture(scope="module")
def recording() -> Iterator[Origin]:
    with origin() as served:
        yield served


@pytest.fixture(scope="module")
def key(gateway: Gateway) -> str:
    return gateway.key("anna")


@pytest.fixture(scope="module", autouse=True)
def configured(gateway: Gateway, recording: Origin) -> None:
    """Four protected prefixes beside one that takes everything: refused by groups, by a key, marked in passing, and
    refused by a key before what a cache keeps for those who have one. The one beside them keeps answers, too."""
    gateway.configure({
        "format": 1,
        "upstreams": [upstream("origin", recording.port)],
        "routes": [
            route("denied", "/denied/*", "origin"), route("keyed", "/keyed/*", "origin"),
            route("marked", "/marked/*", "origin"), route("kept", "/kept/*", "origin"), route("all", "/*", "origin"),
        ],
        "plugins": [
            {"name": "acl", "route": "denied", "config": {"allow": ["nobody"]}},
            {"name": "key-auth", "route": "keyed", "config": {}},
            {"name": "key-auth", "route": "kept", "config": {}},
            {"name": "response-cache", "route": "kept", "config": {"strategy": "memory"}},
            {"name": "response-cache", "route": "all", "config": {"strategy": "memory"}},
            {"name": "request-transformer", "route": "marked", "config": {"add": {"headers": [f"{MARK}:yes"]}}},
        ],
    })  # fmt: skip


def readings(target: str) -> set[str]:
    """What servers make of a target: each of these steps or none of them, three times over, in every order."""
    steps = [
        unquote,
        lambda path: re.sub("%(2f|5c)", "/", path, flags=re.IGNORECASE),
        lambda path: path.replace("\\", "/"),
        lambda path: re.sub(";[^/]*", "", path),
        lambda path: re.sub("/+", "/", path),
        lambda path: re.split("[?#]", path)[0],
        dots,
    ]
    found = {re.sub("^https?://[^/]*", "", target).partition("?")[0]}
    for _ in range(6):
        found |= {step(path) for path in found for step in steps}
    return found


def dots(path: str) -> str:
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept)


def test_there_are_enough() -> None:
    assert len(set(SPELLINGS)) >= 60
    assert "/denied/x" in readings("/public/..%252fdenied;a/./x")


@pytest.mark.parametrize("prefix", ["denied", "keyed", "marked", "kept"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_reaches_the_origin_without_its_plugin(
    gateway: Gateway, recording: Origin, spelling: str, prefix: str
) -> None:
    target = spelt(spelling, prefix)
    recording.take()
    status = asked(gateway, target)
    seen = recording.take()
    assert status in (200, 400, 401, 403)
    assert bool(seen) == (status == 200)
    for request in seen:
        guarded = is_guarded(request.target, prefix)
        assert not guarded or (prefix == "marked" and request[MARK] == "yes"), request
    assert recording.broken == []


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_gets_what_is_kept_for_those_with_a_key(
    gateway: Gateway, recording: Origin, key: str, spelling: str
) -> None:
    """Whoever has the key fills the cache with this very spelling first."""
    target = spelt(spelling, "kept")
    recording.says = b"cache-control: public, max-age=1000\r\n"
    try:
        filled = asked(gateway, target, key)
        recording.take()
        assert asked(gateway, target, key) == filled
        assert recording.take() == []  # it is kept, or refused
        status = asked(gateway, target)
    finally:
        recording.says = b""
    assert status in (200, 400, 401, 403)
    assert status != 200 or not is_guarded(target, "kept")


def spelt(spelling: str, prefix: str) -> str:
    first = f"{ord(prefix[0]):02x}"
    names = {"{p}": prefix, "{q}": f"%{first}{prefix[1:]}", "{q1}": f"{first}{prefix[1:]}"}
    return re.sub("{.*?}", lambda match: names[match[0]], spelling)


def asked(gateway: Gateway, target: str, key: str = "") -> int:
    shown = f"X-API-Key: {key}\r\n" if key else ""
    with RawClient(gateway.port) as client:
        client.send(f"GET {target} HTTP/1.1\r\nHost: a.test\r\n{shown}\r\n".encode("latin-1"))
        reply = client.reply()
    assert reply is not None
    return reply.status


def is_guarded(target: str, prefix: str) -> bool:
    return any(path == f"/{prefix}" or path.startswith(f"/{prefix}/") for path in readings(target))


@pytest.mark.parametrize(
    "target", ["/public/a%20b", "/public/a%2Fb", "/public/a;v=1", "/public/100%25", "/public/%E4%BD%A0", "/public/.a"]
)
def test_what_belongs_to_one_route_in_every_reading_passes_unchanged(
    gateway: Gateway, recording: Origin, target: str
) -> None:
    recording.take()
    with RawClient(gateway.port) as client:
        client.send(f"GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
        assert client.reply().status == 200  # type: ignore[union-attr]
    assert [seen.target for seen in recording.take()] == [target]


FORGED = [
    "X-Consumer-ID", "X-Consumer-Username", "X-Consumer-Custom-ID", "X-Consumer-Groups", "X-Consumer-Anything",
    "x_consumer_id", "X.Consumer.Username", "X-Consumer_Groups", "X-Credential-Identifier", "x_credential_identifier",
    "X-Anonymous-Consumer", "X-Real-IP", "X_Real_IP", "X-Forwarded-User", "X_Forwarded_For", "X.Forwarded.Proto",
    "Forwarded", "Daphne-Root-Path", "Proxy-Authorization", "TE", "Keep-Alive", "Upgrade", "X-Named",
]  # fmt: skip


@pytest.mark.parametrize("path", ["/public/x", "/marked/x"])
def test_no_identity_from_a_client_survives(gateway: Gateway, recording: Origin, path: str) -> None:
    """Whatever its spelling; nor what `Connection` names. The gateway's own forwarding fields are its own words."""
    fields = "".join(f"{name}: forged\r\n" for name in FORGED)
    fields += "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: forged\r\n"
    fields += "X-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /forged\r\nConnection: x-named, keep-alive\r\n"
    recording.take()
    with RawClient(gateway.port) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n".encode())
        assert client.reply().status == 200  # type: ignore[union-attr]
    (request,) = recording.take()
    assert [pair for pair in request.headers if "forged" in pair[1] or "203.0.113.9" in pair[1]] == []
    assert (request["x-forwarded-for"], request["x-forwarded-proto"]) == ("127.0.0.1", "http")
    assert (request["x-forwarded-host"], request["x-real-ip"]) == ("a.test", "127.0.0.1")
