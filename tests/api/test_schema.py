"""schemathesis on everything the schema promises: what is valid is taken, what is not is refused, answers fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, transaction
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode


@pytest.fixture
def api(call: Any) -> Iterator[Any]:
    """In this very process and transaction, so that each operation begins with the same small configuration."""
    call("POST", "/upstreams", {"name": "users", "targets": [{"host": "10.0.0.1", "port": 80}]})
    call("POST", "/routes", {"name": "users", "paths": ["/users/*"], "upstreams": [{"name": "users"}]})
    signals = (request_started, request_finished)
    for signal in signals:  # as Django's own test client does: the connection belongs to the test
        signal.disconnect(close_old_connections)
    schema = schemathesis.openapi.from_wsgi("/admin/v1/schema", get_wsgi_application(), headers=call.headers)
    # What is right by its schema can be wrong by what no JSON Schema says: two equal addresses, a cursor made up.
    schema.config.checks.positive_data_acceptance.expected_statuses = ["2xx", "304", "400", "404", "409", "422"]
    yield schema
    for signal in signals:
        signal.connect(close_old_connections)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_api_keeps_its_schema(api: Any, call: Any, mode: GenerationMode) -> None:
    failures = []
    for operation in (result.ok() for result in api.get_all_operations()):
        if mode is GenerationMode.NEGATIVE and not _can_be_wrong(operation):
            continue
        try:
            _probe(operation.as_strategy(generation_mode=mode), call.headers)
        except (Exception, BaseExceptionGroup) as error:  # each operation's own: all of them are shown
            failures.append(f"{operation.label}: {_told(error)}")
    assert not failures, "\n\n".join(failures)


def _told(error: BaseException) -> str:
    return "\n".join(map(str, error.exceptions)) if isinstance(error, BaseExceptionGroup) else repr(error)


def _can_be_wrong(operation: Any) -> bool:
    return bool(operation.body or operation.query)


def _probe(cases: Any, headers: Any) -> None:
    @settings(
        max_examples=4,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def probe(case: Any) -> None:
        with transaction.atomic():
            case.call_and_validate(headers=headers)

    probe()
