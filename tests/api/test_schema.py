"""schemathesis on everything the schema promises: what is valid is taken, what is not is refused, answers fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, transaction
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

#: Why something that fits its schema may be refused all the same, by status: the rules that JSON Schema cannot say,
#: each as the answer says it. Nothing else may be refused.
BEYOND_SCHEMA: dict[int, list[str]] = {
    400: [
        "This cursor is not one of this list",  # the server's own text, and of one ordering
        "A range is at most 366 days long",  # compares two moments, one of which may be the clock's
        "It lies after the end of the range",
        "This makes more than [0-9]+ points",
        "A multiple of 3600",  # of whole hours, if a caller is named
        "It stands alone",  # parameters that exclude one another
        "Sums are by route and upstream, or by consumer and key",
        "A time with its zone",  # a leap second, which RFC 3339 allows
    ],
    404: [
        "There is no version",  # /config?version=
        "There is no trace",  # as none was begun
        "There is no open WebSocket",  # none is, where no worker runs
    ],
    409: [
        "There is no (route|upstream|consumer|plugin setting) '",  # what a body names must be there
        "The name '.*' is taken",
        "There is an upstream '.*' already",
        "This plugin has a setting of this scope already",
        "The upstream has this target already",
        "Routes lead to it",
        "The route leads nowhere",  # the configuration as a whole must work
        "Matches the same requests as",
    ],
    412: [""],  # an ETag made up
    422: [
        "There is no (plugin|plugin setting|consumer|upstream|route|authentication) '",  # as 409: beside other faults
        "The name '.*' is taken",  # by another of the same body
        "There is no such (consumer|user)",
        "A consumer of this name exists",
        "The route leads nowhere|Matches the same requests as",  # a whole configuration in the body
        "This moment has passed|A time (with its zone|before the year 3000)",
        "is not a regular expression RE2 accepts",
        "The native transport speaks HTTP/1.1 only",  # compares fields
        "not a certificate in PEM|client certificate needs its private key|private key needs its certificate",
        "is no network such as",
        "runs before the consumer is known",
        "is not an IPv6 address",  # in brackets, for which there is no `format`
        "is not a host name|is not a URL|Invalid IPv6 URL",  # whether a URL's authority is one
        "the path of a unix socket has at most",  # bytes, where JSON Schema counts characters
        "uses the same parameter name twice|is there twice",
        "the lower status stands first|At most is less than at first",  # compare two numbers
        "Nobody waits without a ceiling",
        "Say what is to be purged",  # one of four lists
        "discovery is \\w+: give|[Dd]iscovery|hash_on is \\w+: name|Browsers take SameSite=None",  # compare fields
        "is no URL such as|A URL with a user and password|never sent; leave it out",
        "upstreams may not be there",  # an address behind the fence
        "The rewrite uses|Strip the path or rewrite it, not both|All http or all https",  # compare fields
        # A PATCH that leaves out one of the two.
        "A unix socket has port 0|A port from 1 to 65535|A setting is for a route or for an upstream",
        "A reason has at most [0-9]+ bytes",  # where JSON Schema counts characters
        "A text holds a NUL character",  # somewhere in a plugin's config, which may be anything
    ],
}
#: What may be anything to this schema: a plugin's config has a schema of its own at /plugins, a bulk operation's value
#: is the body of its resource.
FREE = re.compile(r"/operations/\d+/value|(/\w+/\d+){0,2}/config|(/routes/\d+)?/(auth|rate_limit)")


class References:
    """What a path's `{ref}` stands for, so that requests get past 404."""

    def __init__(self, call: Callable[..., Any]) -> None:
        call("POST", "/upstreams", {"name": "users", "targets": [{"host": "10.0.0.1", "port": 80}]})
        call("POST", "/routes", {"name": "users", "paths": ["/users/*"], "upstreams": [{"name": "users"}]})
        setting = call("POST", "/plugin-settings", {"name": "rate-limiting", "config": {"minute": 9}}).json()
        call("POST", "/consumers", {"username": "anna"})
        key = call("POST", "/consumers/anna/keys", {}).json()
        call("POST", "/consumers/anna/basic-credentials", {"username": "anna", "password": "long enough"})
        token = call("POST", "/tokens", {"name": "other"}).json()
        self._refs: Mapping[str, str] = {
            "upstreams": "users", "targets": "10.0.0.1:80", "routes": "users", "plugin-settings": str(setting["id"]),
            "consumers": "anna", "keys": key["prefix"], "tokens": token["prefix"], "versions": "1", "plugins": "cors",
            "websockets": "9f8660999c8c931280920375793a935a", "traces": "9f8660999c8c931280920375793a935a",
            "basic-credentials": "anna",
        }  # fmt: skip

    def __call__(self, path: str) -> dict[str, str]:
        """The last parameter is of the collection before it."""
        return {name: self._refs[kind] for kind, name in re.findall(r"/([a-z-]+)/\{(\w+)\}", path)}


@pytest.fixture
def references(call: Any) -> References:
    return References(call)


@pytest.fixture
def api(call: Any, references: References) -> Iterator[Any]:
    """In this very process and transaction, so that each request finds the same small configuration."""
    signals = (request_started, request_finished)
    for signal in signals:  # as Django's own test client does: the connection belongs to the test
        signal.disconnect(close_old_connections)
    schema = schemathesis.openapi.from_wsgi("/admin/v1/schema", get_wsgi_application(), headers=call.headers)
    # Only which statuses there may be at all; `_refused` wants a reason for each.
    schema.config.checks.positive_data_acceptance.expected_statuses = ["2xx", "304", *map(str, BEYOND_SCHEMA)]
    yield schema
    for signal in signals:
        signal.connect(close_old_connections)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_api_keeps_its_schema(api: Any, call: Any, references: References, mode: GenerationMode) -> None:
    failures = []
    for operation in (result.ok() for result in api.get_all_operations()):
        if mode is GenerationMode.NEGATIVE and not _can_be_wrong(operation):
            continue
        try:
            _probe(operation, mode, call.headers, references(operation.path))
        except (Exception, BaseExceptionGroup) as error:  # each operation's own: all of them are shown
            failures.append(f"{operation.label}: {_told(error)}")
    assert not failures, "\n\n".join(failures)


def _told(error: BaseException) -> str:
    return "\n".join(map(str, error.exceptions)) if isinstance(error, BaseExceptionGroup) else repr(error)


def _can_be_wrong(operation: Any) -> bool:
    return bool(operation.body or operation.query)


def _probe(operation: Any, mode: GenerationMode, headers: Any, references: Mapping[str, str]) -> None:
    positive = mode is GenerationMode.POSITIVE

    @settings(
        max_examples=8 if positive else 4,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def probe(case: Any) -> None:
        if positive:
            case.path_parameters = dict(references)
        with transaction.atomic():
            response = case.call_and_validate(headers=headers)
            transaction.set_rollback(True)
        assert not (positive and (unexplained := _refused(response))), unexplained

    probe()


def _refused(response: Any) -> list[str]:
    """Of an answer to what fits the schema: faults that the schema should have told of."""
    if response.status_code < 400:
        return []
    problem = response.json()
    faults = [fault for fault in problem.get("errors", [problem]) if not FREE.match(fault.get("pointer", ""))]
    reasons = "|".join(BEYOND_SCHEMA[response.status_code])
    return [f"{response.status_code}: {fault}" for fault in faults if not re.search(reasons, fault["detail"])]
