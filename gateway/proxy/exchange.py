"""Exchange: one request and its answer, with everything learnt on the way.

Made by the view, filled by the pipeline and the plugins, read once more when the usage record is written.
Clocks: `*_s` are seconds of `time.perf_counter`, except `wall_s` (seconds since the epoch).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.proxy.headers import Pairs
from gateway.proxy.snapshot import RouteSpec, UpstreamSpec


@dataclass(frozen=True, slots=True)
class Consumer:
    """Who calls. Immutable: a change in the database makes a new one.

    `id` 0: known from a token only, not in the database; `username` is then what the token says.
    """

    id: int
    username: str
    custom_id: str = ""
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Credential:
    """What proved it. `id` is the primary key; `hint` (a key's prefix) may be shown and logged, a secret never.

    Of a token (`jwt`), `id` is a hash of who it is about, and `hint` the claim that says so. `proof`: of a username,
    what its password has to fit (`gateway.plugins.passwords`). `asked`: what it was found by (`found.Question`), if it
    was looked up.
    """

    kind: str  # "key", "jwt", "basic", …
    id: int
    hint: str
    consumer: Consumer
    scopes: frozenset[str] = frozenset()
    proof: str = field(default="", repr=False, compare=False)
    asked: bytes | str = field(default="", repr=False, compare=False)
    fields: Pairs = field(init=False, repr=False, compare=False)  # what tells the upstream who calls

    def __post_init__(self) -> None:
        consumer = self.consumer
        fields = []
        if consumer.id:  # an upstream must not take a name in a token for one of our consumers
            fields.append((b"x-consumer-id", b"%d" % consumer.id))
            fields.append((b"x-consumer-username", consumer.username.encode()))
        if self.hint:
            fields.append((b"x-credential-identifier", self.hint.encode()))
        if consumer.custom_id:
            fields.append((b"x-consumer-custom-id", consumer.custom_id.encode()))
        if consumer.groups:
            fields.append((b"x-consumer-groups", ",".join(sorted(consumer.groups)).encode()))
        object.__setattr__(self, "fields", fields)


@dataclass(slots=True)
class Answer:
    """A whole answer made inside the gateway. `headers` lower-cased pairs, without content-length."""

    status: int
    headers: Pairs = field(default_factory=list)
    body: bytes = b""


class Paced:
    """Chunks that come at another pace, byte for byte the same: an answer keeps its length."""

    def __init__(self, chunks: AsyncGenerator[bytes, None]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> Paced:
        return self

    def __anext__(self) -> Awaitable[bytes]:
        return self._chunks.__anext__()

    async def aclose(self) -> None:
        await self._chunks.aclose()


_NO_CLAIMS: dict[str, Any] = {}
_NO_FIELDS: Pairs = []


class Exchange:
    """Plain attributes, no behaviour: the pipeline tells the story.

    `headers` are the client's fields without hop-by-hop and gateway-owned ones; plugins edit them in place and they
    go upstream. `response_headers` is None until there is an answer. `upstream_path`/`upstream_query` replace what the
    route would send (bytes, as on the wire) when a plugin sets them. `notes` carries a plugin's own state from hook to
    hook; the key is the plugin instance.
    """

    __slots__ = (
        "answer_body",
        "answer_fields",
        "authority",
        "bodies",
        "body",
        "bytes_in",
        "bytes_out",
        "cache_status",
        "certificate",
        "chain",
        "claims",
        "client_ip",
        "config_version",
        "consumer",
        "content_length",
        "credential",
        "detail",
        "end",
        "finished_s",
        "forwarded_for",
        "headers",
        "hints",
        "host",
        "id",
        "method",
        "notes",
        "outcome",
        "path",
        "path_params",
        "path_tail",
        "peer_ip",
        "peer_trusted",
        "plain",
        "port",
        "query",
        "raw_path",
        "release",
        "response_headers",
        "route",
        "scheme",
        "sent_s",
        "started_s",
        "status",
        "target",
        "tries",
        "upstream",
        "upstream_head_s",
        "upstream_method",
        "upstream_path",
        "upstream_query",
        "wall_s",
    )

    def __init__(
        self,
        *,
        method: str,
        raw_path: bytes,
        query: bytes,
        headers: Pairs,
        scheme: str,
        peer_ip: str,
        port: int,
        started_s: float,
        wall_s: float,
        body: AsyncIterable[bytes] | None = None,
    ) -> None:
        self.id = ""
        self.method = method
        self.raw_path = raw_path  # as the client wrote it, without the query
        self.query = query  # without `?`
        self.headers = headers
        self.scheme = scheme  # downstream's, after trusted X-Forwarded-Proto
        self.authority = b""  # Host as the client (or a trusted proxy) sent it
        self.host = ""  # the same in lower case, without port
        self.port = port  # downstream's listening port, after trusted X-Forwarded-Port
        self.peer_ip = peer_ip  # the address that is connected to us; "" on a unix socket
        self.peer_trusted = False
        self.client_ip = peer_ip  # after trusted X-Forwarded-For
        self.certificate = b""  # what the client has shown to us, in DER; its issuer is one of GATEWAY_TLS_CLIENT_CA
        self.forwarded_for = b""  # a trusted proxy's X-Forwarded-For, to be continued
        self.path = ""  # normalised reading: what routes match on
        self.plain = True  # nobody could read the path differently
        self.body = body  # None: the request has none
        self.content_length: int | None = None  # None: unknown (chunked) or no body
        self.hints: Callable[[list[bytes]], None] | None = None  # sends an upstream's early `Link` fields on
        self.config_version = 0
        self.route: RouteSpec | None = None
        self.path_params: dict[str, str] = {}
        self.path_tail = ""  # what a pattern's final `/*` matched, with its leading slash
        self.consumer: Consumer | None = None
        self.credential: Credential | None = None
        self.claims: dict[str, Any] = _NO_CLAIMS  # of the verified token; never changed
        self.upstream: UpstreamSpec | None = None
        self.upstream_method = ""  # another than the client's, when a plugin says so
        self.upstream_path: bytes | None = None
        self.upstream_query: bytes | None = None
        self.target = ""  # address of the target that answered, or was tried last
        self.tries = 0
        self.status = 0  # 0: no answer yet
        self.response_headers: Pairs | None = None
        self.answer_body: bytes | AsyncIterator[bytes] = b""
        self.answer_fields: Pairs = _NO_FIELDS  # as the upstream sent them, hop-by-hop ones too; never changed
        self.bodies: list[AsyncIterator[bytes]] = []  # what body hooks made of the answer's, outermost first
        self.release: Callable[[], Awaitable[None]] | None = None  # gives the upstream's connection back
        self.end: Callable[[], None] | None = None  # ends a stream of events early, as if the upstream had
        self.cache_status = ""
        self.outcome = ""
        self.detail = ""  # one sentence for the operator, on the usage row
        self.bytes_in = 0  # body bytes only
        self.bytes_out = 0
        self.started_s = started_s
        self.wall_s = wall_s
        self.sent_s = 0.0  # the attempt that answered: when its request went out
        self.upstream_head_s = 0.0  # and when its head had arrived
        self.finished_s = 0.0
        self.notes: dict[Any, Any] = {}
        self.chain: Any = None  # table.Chain: the hooks that apply, once known
