"""Targets that speak TLS: whom the transport trusts, what it asks for, and who it says it is."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.proxy import certificates
from gateway.proxy.errors import ConnectFailed, UpstreamError
from gateway.proxy.snapshot import TlsSpec
from gateway.proxy.transport import transport_key
from tests.proxy.authority import Authority
from tests.proxy.sending import counters, fetch, post, specs, transport_to
from tests.upstream import OK, Wire, answering, serving

CA, OTHER = Authority(), Authority("another")


@pytest.fixture
def server(tmp_path: Path) -> ssl.SSLContext:
    return CA.server(tmp_path)


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """CA is one of the system's."""
    path = tmp_path / "system.pem"
    path.write_text(CA.certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    certificates.tls_context.cache_clear()
    yield
    certificates.tls_context.cache_clear()


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("tls", [TlsSpec(), TlsSpec(server_name="upstream.test"), TlsSpec(verify=False)])
async def test_the_systems_authorities_are_trusted(server: ssl.SSLContext, tls: TlsSpec) -> None:
    async with (
        serving(answering(OK), tls=server) as upstream,
        transport_to(upstream, protocol="https", tls=tls) as transport,
    ):
        for _ in range(3):
            assert await fetch(transport) == (200, b"ok")
        assert await fetch(transport, post(b"", method="PUT")) == (200, b"ok")
        assert upstream.connections == 1


@pytest.mark.parametrize(
    "tls",
    [
        TlsSpec(),
        TlsSpec(ca=OTHER.certificate),
        TlsSpec(ca=CA.certificate, server_name="other.test"),
    ],
    ids=["the system's", "another", "another name"],
)
async def test_who_cannot_be_verified_is_no_connection(server: ssl.SSLContext, tls: TlsSpec) -> None:
    async with (
        serving(answering(OK), tls=server) as upstream,
        transport_to(upstream, protocol="https", tls=tls) as transport,
    ):
        with pytest.raises(ConnectFailed) as caught:
            await fetch(transport)
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        assert counters(transport) == (0, 0, 0, 0)
        assert not upstream.heads


@pytest.mark.parametrize(
    "tls",
    [
        TlsSpec(verify=False),
        TlsSpec(ca=CA.certificate),
        TlsSpec(ca=f"{OTHER.certificate}\n{CA.certificate}", server_name="upstream.test"),
    ],
    ids=["not asked", "own authority", "one of two"],
)
async def test_or_whoever_is_known_or_not_asked(server: ssl.SSLContext, tls: TlsSpec) -> None:
    async with (
        serving(answering(OK), tls=server) as upstream,
        transport_to(upstream, protocol="https", tls=tls) as transport,
    ):
        assert await fetch(transport) == (200, b"ok")


async def test_the_server_is_asked_for_by_its_name(server: ssl.SSLContext) -> None:
    asked: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: asked.append(name)
    tls = TlsSpec(ca=CA.certificate, server_name="upstream.test")
    async with (
        serving(answering(OK), tls=server) as upstream,
        transport_to(upstream, protocol="https", tls=tls) as transport,
    ):
        await fetch(transport)
    assert asked == ["upstream.test"]


# --- who we are


async def who(wire: Wire) -> None:
    """Answers with the name in the client's certificate."""
    peer = wire.writer.get_extra_info("peercert")
    names = [value for part in peer["subject"] for key, value in part if key == "commonName"]
    while await wire.head():
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(names[0]), names[0].encode()))


@pytest.fixture
def asking(tmp_path: Path) -> ssl.SSLContext:
    """A server that wants a certificate of OTHER's."""
    return CA.server(tmp_path, clients=OTHER)


async def test_a_target_that_asks_is_shown_our_certificate(asking: ssl.SSLContext) -> None:
    certificate, key = OTHER.issue("gateway.test")
    tls = TlsSpec(ca=CA.certificate, certificate=certificate, key=key)
    async with serving(who, tls=asking) as upstream, transport_to(upstream, protocol="https", tls=tls) as transport:
        for _ in range(2):
            assert await fetch(transport) == (200, b"gateway.test")
        assert upstream.connections == 1


@pytest.mark.parametrize("issuer", [None, CA], ids=["none", "of another authority"])
async def test_without_the_right_one_there_is_no_answer(asking: ssl.SSLContext, issuer: Authority | None) -> None:
    certificate, key = issuer.issue("gateway.test") if issuer else ("", "")
    tls = TlsSpec(ca=CA.certificate, certificate=certificate, key=key)
    async with serving(who, tls=asking) as upstream, transport_to(upstream, protocol="https", tls=tls) as transport:
        with pytest.raises(UpstreamError):  # in TLS 1.3 the refusal comes after the handshake
            await fetch(transport)
        assert counters(transport) == (0, 0, 0, 0)
        assert not upstream.heads


def test_another_certificate_is_another_pool() -> None:
    certificate, key = OTHER.issue("gateway.test")
    kinds = [TlsSpec(), TlsSpec(ca=CA.certificate), TlsSpec(certificate=certificate, key=key), TlsSpec(verify=False)]
    keys = {transport_key(*reversed(specs(protocol="https", tls=tls))) for tls in kinds}
    assert len(keys) == len(kinds)
