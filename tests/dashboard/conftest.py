from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection

from dashboard.partitions import partition_days
from dashboard.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    path = tmp_path / "spool"
    path.mkdir()
    return Spool(path)


@pytest.fixture
def committed(transactional_db: None) -> Iterator[None]:
    """Real transactions. Afterwards the usage tables are as a migration leaves them; Django does not empty them all."""
    yield
    with connection.cursor() as cursor:
        for day in partition_days():
            cursor.execute(f"DROP TABLE usage_row_{day:%Y%m%d}")
        cursor.execute("TRUNCATE usage_row, usage_segment, usage_traffic, usage_latency, usage_calls")
