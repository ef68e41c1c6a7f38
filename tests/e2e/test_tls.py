"""The gateway ends TLS itself: certificates by name, client certificates, WebSockets, large answers both ways."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from django.conf import settings
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from gateway.environment import Environment
from gateway.server.node import CannotServe, Node
from gateway.server.tls import TlsProblem, names_of, server_context
from tests.e2e.gateway import Gateway, free_port, route, running, upstream, wait_until
from tests.hazards.origin import Origin, origin

LARGE = 30_000_000


@dataclass
class Authority:
    directory: Path

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._issue("authority", self.key, None)
        self.file = self.directory / "authority.pem"
        self.file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(self, name: str, *others: str) -> Path:
        """Certificate and key in one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._issue(name, key, [name, *others])
        path = self.directory / f"{name}.pem"
        path.write_bytes(
            certificate.public_bytes(Encoding.PEM)
            + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        return path

    def _issue(self, name: str, key: Any, names: list[str] | None) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = self.certificate.subject if names else subject
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
        builder = builder.add_extension(x509.BasicConstraints(ca=names is None, path_length=None), critical=True)
        if names:
            alternative = x509.SubjectAlternativeName([x509.DNSName(one) for one in names])
            builder = builder.add_extension(alternative, critical=False)
        return builder.sign(self.key, SHA256())


@pytest.fixture(scope="module")
def authority(directory: Path) -> Authority:
    return Authority(directory)


class Echo:
    """A WebSocket upstream in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.port = free_port()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Echo:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *reason: object) -> None:
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)
        self.loop.close()

    def _run(self) -> None:
        self.loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._over = asyncio.Event()

        async def echo(connection: ServerConnection) -> None:
            async for message in connection:
                await connection.send(message)

        async with serve(echo, "127.0.0.1", self.port, max_size=None):
            self._ready.set()
            await self._over.wait()


@dataclass
class Secure:
    gateway: Gateway
    port: int
    authority: Authority
    origin: Origin

    def context(self, certificate: Path | None = None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=self.authority.file)
        if certificate is not None:
            made.load_cert_chain(certificate)
        return made

    def connect(self, host: str = "a.test", certificate: Path | None = None) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), 20)
        return self.context(certificate).wrap_socket(plain, server_hostname=host)

    def ask(
        self, path: str, method: str = "GET", body: bytes = b"", certificate: Path | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("a.test")
        connection.sock = self.connect(certificate=certificate)
        try:
            connection.request(method, path, body or None)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def secure(directory: Path, database_url: str, authority: Authority) -> Iterator[Secure]:
    files = [authority.issue("a.test"), authority.issue("b.test", "*.b.test")]
    port = free_port()
    environment = {
        "DATABASE_URL": database_url, "REDIS_URL": settings.REDIS_URL, "GATEWAY_REDIS_TIMEOUT_MS": "1000",
        "GATEWAY_TLS_PORT": str(port), "GATEWAY_TLS_CERTIFICATES": ",".join(map(str, files)),
        "GATEWAY_TLS_CLIENT_CA": str(authority.file),
    }  # fmt: skip
    gateway = Gateway(directory, environment)
    with origin() as served, Echo() as echo, running(gateway):
        gateway.configure({
            "format": 1,
            "upstreams": [upstream("origin", served.port), upstream("chat", echo.port)],
            "routes": [
                route("open", "/open/*", "origin"), route("chat", "/chat/*", "chat"),
                route("known", "/known/*", "origin"),
            ],
            "plugins": [
                {"name": "mtls-auth", "route": "known", "config": {"ca_certificates": authority.file.read_text()}},
            ],
        })  # fmt: skip
        yield Secure(gateway, port, authority, served)


@pytest.mark.parametrize(("asked", "given"), [("a.test", "a.test"), ("b.test", "b.test"), ("x.b.test", "b.test")])
def test_each_name_gets_its_certificate(secure: Secure, asked: str, given: str) -> None:
    with secure.connect(asked) as connection:
        certificate = connection.getpeercert()
    assert certificate is not None
    assert (("commonName", given),) in certificate["subject"]


def test_the_upstream_hears_of_https(secure: Secure) -> None:
    secure.origin.take()
    assert secure.ask("/open/x") == (200, b"ok")
    (seen,) = secure.origin.take()
    assert (seen["x-forwarded-proto"], seen["x-forwarded-port"]) == ("https", str(secure.port))


def test_curl_and_a_name_nobody_knows_gets_the_first_certificate(secure: Secure) -> None:
    command = [
        "curl", "-sS", "--cacert", str(secure.authority.file), "--resolve", f"a.test:{secure.port}:127.0.0.1",
        "-o", "/dev/null", "-w", "%{http_code} %{ssl_verify_result}", f"https://a.test:{secure.port}/open/x",
    ]  # fmt: skip
    assert subprocess.run(command, capture_output=True, text=True, timeout=20).stdout == "200 0"
    other = [word.replace("a.test", "other.test") for word in command]
    refused = subprocess.run(other, capture_output=True, text=True, timeout=20)
    assert "no alternative certificate subject name matches" in refused.stderr


def test_who_shows_a_certificate_is_known(secure: Secure, tmp_path: Path) -> None:
    anna = secure.authority.issue("anna")
    secure.origin.take()
    assert secure.ask("/known/x", certificate=anna) == (200, b"ok")
    (seen,) = secure.origin.take()
    assert seen["x-credential-identifier"] == "anna"
    status, text = secure.ask("/known/x")
    assert (status, b"certificate_missing" in text) == (401, True)
    stranger = Authority(tmp_path).issue("anna")
    with pytest.raises(OSError, match=r"alert|reset|EOF|closed|[Bb]roken"):
        secure.ask("/known/x", certificate=stranger)


def test_a_large_body_arrives_whole(secure: Secure) -> None:
    body = os.urandom(1000) * (LARGE // 1000)
    secure.origin.take()
    assert secure.ask("/open/x", "POST", body) == (200, b"ok")
    (seen,) = secure.origin.take()
    assert seen.body == body


def test_a_websocket_goes_through_tls(secure: Secure) -> None:
    async def talk() -> None:
        address = f"wss://a.test:{secure.port}/chat/x"
        async with connect(address, host="127.0.0.1", ssl=secure.context(), max_size=None) as chat:
            for message in ("one", b"\x00" * 200_000, "", "ä" * 50_000):
                await chat.send(message)
                assert await chat.recv() == message
            for number in range(500):
                await chat.send(f"{number}")
            assert [await chat.recv() for _ in range(500)] == [f"{number}" for number in range(500)]
        assert chat.close_code == 1000

    asyncio.run(talk())


def test_nothing_stays_of_websockets_that_left(secure: Secure) -> None:
    (worker,) = secure.gateway.pids("gateway.server.worker")

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{worker}/fd"))

    async def leave(hard: bool) -> None:
        address = f"wss://a.test:{secure.port}/chat/x"
        chat = await connect(address, host="127.0.0.1", ssl=secure.context())
        await chat.send("x")
        await chat.recv()
        if hard:
            chat.transport.abort()
        else:
            await chat.close()

    asyncio.run(leave(True))
    before = descriptors()
    for number in range(20):
        asyncio.run(leave(number % 2 == 0))
    wait_until(lambda: descriptors() <= before + 2, 10, "the descriptors are given back")


def test_garbage_on_the_tls_port_is_no_harm(secure: Secure) -> None:
    for data in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 500, b"\x00" * 100, b""):
        with socket.create_connection(("127.0.0.1", secure.port), 5) as plain:
            plain.sendall(data)
            if not data:
                plain.shutdown(socket.SHUT_WR)
            plain.settimeout(15)
            with contextlib.suppress(ConnectionResetError):
                assert not plain.recv(4096).startswith(b"HTTP")
    assert secure.ask("/open/x")[0] == 200


def test_a_renewed_certificate_is_served_after_sighup(secure: Secure) -> None:
    def serial() -> int:
        with secure.connect() as connection:
            certificate = connection.getpeercert()
        assert certificate is not None
        return int(str(certificate["serialNumber"]), 16)

    before = serial()
    secure.authority.issue("a.test")
    assert secure.gateway.process is not None
    secure.gateway.process.send_signal(signal.SIGHUP)
    wait_until(lambda: serial() != before, 30, "the new certificate")


def test_what_is_wrong_with_the_files_is_said(authority: Authority, tmp_path: Path) -> None:
    good, other = authority.issue("c.test"), authority.issue("d.test")
    certificate, key = (path.read_text().partition("-----BEGIN PRIVATE")[::2] for path in (good, other))
    mixed, bare = tmp_path / "mixed.pem", tmp_path / "bare.pem"
    mixed.write_text(certificate[0] + "-----BEGIN PRIVATE" + key[1])
    bare.write_text(certificate[0])
    for files, client_ca, said in (
        ([], None, "GATEWAY_TLS_CERTIFICATES: files with"),
        ([str(tmp_path / "none.pem")], None, "none.pem: No such file or directory."),
        ([str(mixed)], None, "mixed.pem: the private key is not that of the certificate."),
        ([str(bare)], None, "bare.pem: no certificate in PEM with its private key."),
        ([str(good)], tmp_path / "none.pem", "GATEWAY_TLS_CLIENT_CA: "),
    ):
        with pytest.raises(TlsProblem) as caught:
            server_context(files, client_ca)
        assert said in str(caught.value)
    assert names_of(good.read_bytes()) == ["c.test"]
    environment = Environment(port=free_port(), tls_port=free_port(), data_dir=tmp_path)
    with pytest.raises(CannotServe, match="GATEWAY_TLS_CERTIFICATES"):
        _bind(Node(environment))


def _bind(node: Node) -> None:
    try:
        node.bind()
    finally:
        node.close()
