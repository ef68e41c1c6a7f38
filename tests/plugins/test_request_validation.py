from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.plugins.registry import ConfigProblems
from gateway.proxy.errors import BodyTooLarge, Reject, problem

PERSON = json.dumps({
    "type": "object", "required": ["name"], "additionalProperties": False,
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "mail": {"format": "email"},
                   "a/b": {"type": "null"}},
})  # fmt: skip
JSON = (b"content-type", b"application/json; charset=utf-8")
OPENAPI = """
openapi: 3.1.0
servers: [{url: "https://api.example/v1"}]
paths:
  /users/{id}:
    parameters: [{$ref: "#/components/parameters/Id"}]
    get: {parameters: [{in: query, name: tag, schema: {type: array, items: {type: integer}}}]}
    put:
      requestBody:
        required: true
        content: {application/json: {schema: {$ref: "#/components/schemas/User"}}, text/*: {}}
  /users/me: {get: {}}
components:
  parameters: {Id: {in: path, name: id, required: true, schema: {$ref: "#/components/schemas/Id"}}}
  schemas:
    Id: {type: integer}
    User: {type: object, properties: {friends: {type: array, items: {$ref: "#/components/schemas/User"}}, id: {$ref: "#/components/schemas/Id"}}}
"""  # noqa: E501


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def sent_on(exchange) -> bytes:
    return b"".join([chunk async for chunk in exchange.body])


def post(exchange_of, body: Any, *fields: tuple[bytes, bytes], **more: Any):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    half = len(text) // 2
    return exchange_of("POST", headers=[*(fields or (JSON,))], body=stream(text[:half], text[half:]), **more)


async def refusal(plugin, exchange) -> Reject:
    with pytest.raises(Reject) as caught:
        await plugin.access(exchange)
    return caught.value


async def test_a_body_that_fits_goes_upstream_byte_by_byte(make, exchange_of) -> None:
    exchange = post(exchange_of, b' {"name" :"a"}')
    await make("request-validation", {"body_schema": PERSON}).access(exchange)
    assert await sent_on(exchange) == b' {"name" :"a"}'


async def test_every_error_is_listed_and_nothing_sent_is_repeated(make, exchange_of) -> None:
    plugin = make("request-validation", {"body_schema": PERSON, "parameter_schema": [
        {"in": "query", "name": "n", "schema": '{"type": "integer"}'},
        {"in": "header", "name": "X-A", "required": True},
    ]})  # fmt: skip
    exchange = post(exchange_of, {"age": "SECRET", "mail": "x", "a/b": 1}, query=b"n=1.5")
    error = await refusal(plugin, exchange)
    assert (error.status, error.code) == (400, "request_invalid")
    answer = json.loads(problem(error, "i")[2])
    assert {(e.get("pointer"), e.get("in"), e.get("name")) for e in answer["errors"]} == {
        ("#/age", None, None), ("#/mail", None, None), ("#/a~1b", None, None), ("#", None, None),
        (None, "query", "n"), (None, "header", "X-A"),
    }  # fmt: skip
    assert "SECRET" not in json.dumps(answer)


async def test_errors_may_be_kept_quiet_and_are_never_too_many(make, exchange_of) -> None:
    config = {"body_schema": '{"items": {"type": "string"}}'}
    error = await refusal(make("request-validation", config), post(exchange_of, [1] * 1000))
    assert len(error.errors) == 100
    quiet = make("request-validation", {**config, "verbose_response": False})
    assert b'"errors"' not in problem(await refusal(quiet, post(exchange_of, [1])), "i")[2]


@pytest.mark.parametrize("body", [
    b"{", b'{"name": NaN}', b"[" * 100_000, b"\xff", b"1e999", b"9" * 5000,
    b"[" * 900 + b"]" * 900,
])  # fmt: skip
async def test_what_is_no_json_is_an_error_and_no_failure(make, exchange_of, body) -> None:
    error = await refusal(make("request-validation", {"body_schema": PERSON}), post(exchange_of, body))
    assert (error.code, len(error.errors)) == ("request_invalid", 1)


async def test_codings_are_decoded_within_the_limit_and_sent_on_as_they_came(make, exchange_of) -> None:
    plugin = make("request-validation", {"body_schema": PERSON, "max_body_bytes": 1000})
    packed = gzip.compress(b'{"name": "a"}')
    exchange = post(exchange_of, packed, JSON, (b"content-encoding", b"gzip"))
    await plugin.access(exchange)
    assert await sent_on(exchange) == packed
    with pytest.raises(BodyTooLarge):
        await plugin.access(post(exchange_of, gzip.compress(b" " * 100_000), JSON, (b"content-encoding", b"gzip")))
    for coding, body in ((b"br", packed), (b"gzip", packed[:-9]), (b"gzip", b"x")):
        error = await refusal(plugin, post(exchange_of, body, JSON, (b"content-encoding", coding)))
        assert error.code == "request_invalid"


@pytest.mark.parametrize("announced", [None, 2000])
async def test_a_body_over_the_limit_is_refused(make, exchange_of, announced) -> None:
    plugin = make("request-validation", {"body_schema": PERSON, "max_body_bytes": 1000})
    with pytest.raises(BodyTooLarge):
        await plugin.access(post(exchange_of, b" " * 2000, content_length=announced))


async def test_a_missing_body_and_another_media_type(make, exchange_of) -> None:
    plugin = make("request-validation", {"body_schema": PERSON})
    assert (await refusal(plugin, exchange_of("POST"))).errors == [{"pointer": "#", "detail": "A body is required."}]
    assert await plugin.access(exchange_of("GET")) is None
    assert (await refusal(plugin, post(exchange_of, b"a=b", (b"content-type", b"text/plain")))).status == 415


async def test_without_a_body_schema_no_body_is_read(make, exchange_of) -> None:
    plugin = make("request-validation", {"parameter_schema": [{"in": "path", "name": "id"}]})
    exchange = post(exchange_of, b"anything")
    before = exchange.body
    await plugin.access(exchange)
    assert exchange.body is before


@pytest.mark.parametrize(
    ("entry", "query", "fits"),
    [
        ({"schema": '{"type": "integer"}'}, b"p=7", True),
        ({"schema": '{"type": "integer"}'}, b"p=7&p=8", False),
        ({"schema": '{"type": "integer"}'}, b"p=07", False),
        ({"schema": '{"type": "number"}'}, b"p=7.5", True),
        ({"schema": '{"type": "number"}'}, b"p=inf", False),
        ({"schema": '{"type": "boolean"}'}, b"p=true", True),
        ({"schema": '{"type": "boolean"}'}, b"p=1", False),
        ({"schema": '{"type": "string", "maxLength": 3}'}, b"p=123", True),
        ({"schema": '{"type": "array", "items": {"type": "integer"}}'}, b"p=1&p=2", True),
        ({"schema": '{"type": "array", "items": {"type": "integer"}}'}, b"p=1,2", False),
        ({"schema": '{"type": "array", "items": {"type": "integer"}}', "explode": False}, b"p=1,2", True),
        ({"schema": '{"enum": ["a"]}'}, b"", True),
        ({"schema": '{"enum": ["a"]}', "required": True}, b"", False),
    ],
)
async def test_parameters_stand_for_what_their_type_says(make, exchange_of, entry, query, fits) -> None:
    plugin = make("request-validation", {"parameter_schema": [{"in": "query", "name": "p", **entry}]})
    exchange = exchange_of(query=query)
    if fits:
        await plugin.access(exchange)
    else:
        assert (await refusal(plugin, exchange)).status == 400


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "status"),
    [
        ("GET", "/v1/users/7", b"tag=1&tag=2", None, 0),
        ("HEAD", "/v1/users/7", b"", None, 0),
        ("GET", "/v1/users/7", b"tag=x", None, 400),
        ("GET", "/v1/users/x", b"", None, 400),
        ("GET", "/v1/users/me", b"", None, 0),
        ("GET", "/users/7", b"", None, 404),
        ("GET", "/v1/users/7/x", b"", None, 404),
        ("POST", "/v1/users/7", b"", None, 405),
        ("PUT", "/v1/users/7", b"", None, 400),
        ("PUT", "/v1/users/7", b"", {"friends": [{"id": 1}]}, 0),
        ("PUT", "/v1/users/7", b"", {"friends": [{"id": "x"}]}, 400),
    ],
)
async def test_an_openapi_document(make, exchange_of, method, path, query, body, status) -> None:
    plugin = make("request-validation", {"openapi": OPENAPI})
    exchange = exchange_of(method, path, query, headers=[JSON])
    exchange.body = None if body is None else stream(json.dumps(body).encode())
    if status:
        assert (await refusal(plugin, exchange)).status == status
    else:
        await plugin.access(exchange)


@pytest.mark.parametrize("config", [
    {}, {"body_schema": "{}", "openapi": OPENAPI}, {"body_schema": '{"type": "strin"}'}, {"body_schema": "[1]"},
    {"body_schema": '{"$ref": "http://a.example/s"}'}, {"body_schema": '{"$ref": "file:///etc/passwd"}'},
    {"body_schema": '{"pattern": "(?=a)"}'}, {"body_schema": "{: ["},
    {"parameter_schema": [{"in": "query", "name": "a", "schema": '{"type": "object"}'}]},
    {"openapi": "openapi: 3.0.3"}, {"openapi": "[]"},
    {"openapi": OPENAPI.replace("#/components/schemas/User\"}}, text", "http://a.example/U\"}}, text")},
    {"openapi": OPENAPI.replace("#/components/parameters/Id", "#/components/parameters/None")},
    {"openapi": OPENAPI.replace("#/components/parameters/Id", "other.yaml#/Id")},
])  # fmt: skip
def test_what_cannot_be_used_is_refused(registry, config) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("request-validation", config)
