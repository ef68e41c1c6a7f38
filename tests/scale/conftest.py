"""A database of its own, filled once: a copy of the suite's empty one, so that no other test sees a million rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

if TYPE_CHECKING:
    from tests.scale.fill import Filled


@pytest.fixture(scope="module")
def filled(django_db_setup: None, django_db_blocker: Any) -> Iterator[Filled]:
    from django.db import connection
    from django.utils import timezone

    from tests.scale.fill import fill

    empty, name = connection.settings_dict["NAME"], f"{connection.settings_dict['NAME']}_scale"
    with (
        django_db_blocker.unblock(),
        psycopg.connect(make_conninfo(**_parameters(connection), dbname="postgres"), autocommit=True) as server,
    ):
        connection.close()
        server.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))
        server.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(empty)))
        connection.settings_dict["NAME"] = name
        try:
            yield fill(timezone.now())
        finally:
            connection.close()
            connection.settings_dict["NAME"] = empty
            # Without FORCE: it may end no autovacuum worker, which leaves by itself.
            server.execute(SQL("DROP DATABASE {}").format(Identifier(name)))


def _parameters(connection: Any) -> dict[str, Any]:
    given = connection.get_connection_params()
    return {name: given[name] for name in ("host", "port", "user", "password") if given.get(name)}
