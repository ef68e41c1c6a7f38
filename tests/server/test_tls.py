"""The front ends TLS itself when given a context."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.server.front import echo, front, hello

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a.test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
        now + datetime.timedelta(days=1)
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("a.test")]), critical=False)
    path = tmp_path_factory.mktemp("tls") / "a.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def contexts(certificate: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(certificate)
    theirs = ssl.create_default_context(cafile=certificate)
    return ours, theirs


async def test_https(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with front(echo, ssl=contexts[0]) as server:
        client = await server.connect(ssl=contexts[1], server_hostname="a.test")
        for _ in range(2):
            seen = (await client.ask(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc")).json()
            assert (seen["scheme"], seen["body"]) == ("https", "abc")


async def test_an_early_refusal_is_seen_through_tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with front(hello, ssl=contexts[0], max_body_bytes=10, linger_timeout_s=0.2) as server:
        client = await server.connect(ssl=contexts[1], server_hostname="a.test")
        await client.send(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 900000\r\n\r\n" + bytes(900_000))
        assert (await client.answer()).status == 413
        assert await client.rest() == b""


async def test_a_handshake_has_the_deadline_of_a_head(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with front(hello, ssl=contexts[0], head_timeout_s=0.1) as server:
        assert await (await server.connect()).rest() == b""


async def test_plain_http_on_a_tls_port_is_dropped(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with front(hello, ssl=contexts[0]) as server:
        client = await server.connect()
        await client.send(GET)
        assert b"200" not in await client.rest()
