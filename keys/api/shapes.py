"""What the admin API reads and answers of consumers, keys and tokens. Bounds and examples reach the schema."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from gateway.api.lists import parse
from keys.models import WORD

#: Later than anybody means, and early enough that a lifetime can be added to it.
LATEST = datetime(3000, 1, 1, tzinfo=UTC)


def _moment(value: object) -> object:
    if not isinstance(value, str):
        return value
    moment = parse(value, "time")
    if moment >= LATEST:
        raise ValueError("A time before the year 3000.")
    return moment


Moment = Annotated[datetime, BeforeValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})]
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
_CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
Line = Annotated[
    str, StringConstraints(pattern=rf"^([^\s{_CONTROL}]([^{_CONTROL}]*[^\s{_CONTROL}])?)?$", max_length=100)
]
Word = Annotated[str, StringConstraints(pattern=rf"^{WORD}$")]
Words = Annotated[list[Word], Field(max_length=100)]
Scope = Literal["read", "write", "admin"]
State = Literal["live", "expired", "revoked"]


class Given(BaseModel):
    """Types are exact: the text "5" is not the number 5. Unknown fields are refused.

    Read-only fields may stand there, so that what was read can be sent back; they are skipped.
    """

    read_only: ClassVar[frozenset[str]] = frozenset()
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _skip_read_only(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: part for name, part in value.items() if name not in cls.read_only}

    @property
    def fields(self) -> Mapping[str, Any]:
        """Only what was given."""
        return {name: getattr(self, name) for name in self.model_fields_set}


def _left_alone(schema: dict[str, Any]) -> None:
    """Of a patch: a field that is not given keeps its value, so defaults would be a lie."""
    for part in schema["properties"].values():
        part.pop("default", None)


class Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True, frozen=True, use_attribute_docstrings=True)


# --- consumers --------------------------------------------------------------------------------------------------------


class ConsumerWrite(Given):
    read_only = frozenset({"id", "created_at", "updated_at"})

    username: Annotated[Line, Field(min_length=1, examples=["alice"])]
    """Unique, whatever the case. Upstreams get it as a header."""
    custom_id: Annotated[Line, Field(examples=["crm-7"])] = ""
    """Your own system's id."""
    groups: Annotated[Words, Field(examples=[["gold", "eu"]])] = []
    """What acl and rate limits go by."""
    tags: Words = []
    """For finding things; no effect on traffic."""
    enabled: bool = True
    """Off: every key of this consumer is refused, at once."""
    note: Annotated[Text, Field(max_length=10_000)] = ""


class ConsumerPatch(ConsumerWrite):
    model_config = ConfigDict(json_schema_extra=_left_alone)

    username: Annotated[Line, Field(min_length=1)] = ""


class ConsumerRead(Answer):
    id: int
    username: str
    custom_id: str
    groups: list[str]
    tags: list[str]
    enabled: bool
    note: str
    created_at: datetime
    updated_at: datetime


# --- keys -------------------------------------------------------------------------------------------------------------


_ISSUED = frozenset({
    "id", "prefix", "state", "created_at", "created_by", "revoked_at", "revoked_reason", "last_used_at",
})  # fmt: skip


class KeyOfConsumerWrite(Given):
    name: Annotated[Text, Field(max_length=100, examples=["billing job"])] = ""
    """What it is for."""
    scopes: Words = []
    """Scopes that acl rules name."""
    expires_at: Annotated[Moment | None, Field(examples=["2030-01-31T12:00:00Z"])] = None
    """null: never."""


class KeyWrite(KeyOfConsumerWrite):
    consumer_id: int = Field(ge=1, le=2**63 - 1, examples=[7])


class KeyPatch(KeyOfConsumerWrite):
    model_config = ConfigDict(json_schema_extra=_left_alone)
    read_only = _ISSUED | {"consumer_id", "consumer", "rotated_from_id"}


class RotateWrite(Given):
    overlap_s: int = Field(86_400, ge=0, le=31_536_000)
    """So long the old key works on, at most."""


class RevokeWrite(Given):
    reason: Annotated[Text, Field(max_length=150, examples=["laptop lost"])] = ""


class IssuedRead(Answer):
    id: int
    name: str
    prefix: str
    """The part that may be shown."""
    state: State
    scopes: list[str]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    revoked_reason: str
    last_used_at: datetime | None


class KeyRead(IssuedRead):
    consumer_id: int
    consumer: str
    """The consumer's username."""
    rotated_from_id: int | None
    """The key it took over from."""


class Once(Answer):
    secret: str | None
    """Shown in this answer only; a repeated request with the same Idempotency-Key gets null."""


class Snippets(Answer):
    """The same request in three languages, with the secret in it."""

    curl: str
    python: str
    javascript: str


class KeyIssued(KeyRead, Once):
    snippets: Snippets | None
    """Ready to run. null in a repeated request, as `secret` is."""


# --- usernames with passwords -----------------------------------------------------------------------------------------

Login = Annotated[
    str,
    StringConstraints(pattern=rf"^[^\s:{_CONTROL}]([^:{_CONTROL}]*[^\s:{_CONTROL}])?$", min_length=1, max_length=128),
]
Password = Annotated[str, StringConstraints(pattern=rf"^[^{_CONTROL}]*$", min_length=8, max_length=256)]


class BasicWrite(Given):
    read_only = frozenset({"id", "consumer_id", "created_at", "updated_at"})

    username: Annotated[Login, Field(examples=["alice"])]
    """What the client sends; case counts."""
    password: Annotated[Password, Field(examples=["correct horse battery"])]
    """Stored as its scrypt hash, and shown nowhere."""


class BasicPatch(BasicWrite):
    model_config = ConfigDict(json_schema_extra=_left_alone)

    username: Login = ""
    password: Password = ""


class BasicRead(Answer):
    id: int
    username: str
    consumer_id: int
    created_at: datetime
    updated_at: datetime


# --- tokens -----------------------------------------------------------------------------------------------------------


class TokenWrite(Given):
    name: Annotated[Line, Field(min_length=1, examples=["deploy pipeline"])]
    """What it is for."""
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=3)] = ["read"]
    """Each includes those before it: read, write, admin."""
    expires_at: Annotated[Moment | None, Field(examples=["2030-01-31T12:00:00Z"])] = None
    """null: never."""
    user: Annotated[Text, Field(max_length=150, examples=["ops"])] = ""
    """Whose permissions it has: you, or for superusers anyone."""


class TokenPatch(Given):
    model_config = ConfigDict(json_schema_extra=_left_alone)
    read_only = _ISSUED | {"user"}

    name: Annotated[Line, Field(min_length=1)] = ""
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=3)] = []
    expires_at: Moment | None = None


class TokenRead(IssuedRead):
    user: str


class TokenIssued(TokenRead, Once):
    pass
