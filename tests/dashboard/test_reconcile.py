"""Counters of quotas are lost in a real Redis, and put back from real usage rows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgpack
import pytest
from django.conf import settings
from django.core.management import call_command

from dashboard import reconcile
from dashboard.shipping import ship
from gateway.plugins.periods import period
from gateway.plugins.quota import counter_prefix
from gateway.proxy.batcher import SCRIPT, script_arguments
from gateway.proxy.exchange import Consumer as Caller
from gateway.proxy.exchange import Credential
from gateway.proxy.limits import Limit
from keys.models import Consumer
from routes.models import PluginSetting, Route
from tests.dashboard.segments import segment_write
from tests.proxy.exchanges import finished, route

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ANN, BOB = 5, 6


@pytest.fixture
def client() -> Iterator[reconcile.Any]:
    client = reconcile.client_of(settings.REDIS_URL)
    yield client
    for key in [reconcile.MARK, *client.scan_iter("hg:quota:*")]:
        client.delete(key)
    client.close()


@pytest.fixture
def rows(committed, spool):
    """Today: 4 requests of Ann's over two keys, one of them on another route, 1 of Bob's. This month: 2 more of Ann's.
    And what does not count: refused, of last month, of nobody."""

    def request(days: int = 0, consumer: int = ANN, key: int = 1, **more):
        who = Caller(id=consumer, username="x")
        mine = {"consumer": who, "credential": Credential("key", key, "hg_live_abc", who), "key_id": None}
        return finished(at_s=(NOW - timedelta(days=days)).timestamp(), **mine | more)

    refused = {"status": 429, "outcome": "rate_limited", "tries": 0, "upstream_ms": None}
    segment_write(spool.path, [
        request(), request(), request(key=2), request(route=route(99, "other")), request(consumer=BOB, key=3),
        request(days=3), request(days=19), request(days=20), request(**refused),
        finished(at_s=NOW.timestamp(), key_id=None, consumer=None, credential=None),
    ])  # fmt: skip
    ship(spool, "n1")


def taken(client, setting, unit, caller, reset_day=1) -> int:
    packed = client.get(f"{counter_prefix(setting.pk, period(unit, NOW.timestamp(), reset_day))}{caller}")
    return msgpack.unpackb(packed)[0] if packed else 0


def test_counters_are_raised_to_the_rows_of_their_period(rows, client) -> None:
    setting = PluginSetting.objects.create(name="quota", config={"day": 9, "month": 9})
    assert reconcile.reconcile(client, NOW) == 4
    assert taken(client, setting, "day", f"consumer:{ANN}") == 4
    assert taken(client, setting, "month", f"consumer:{ANN}") == 6
    assert taken(client, setting, "day", f"consumer:{BOB}") == 1
    assert reconcile.reconcile(client, NOW) == 0, "twice is harmless"
    key = f"{counter_prefix(setting.pk, period('day', NOW.timestamp()))}consumer:{ANN}"
    assert 0 < client.pttl(key) <= 12 * 3600 * 1000 + 1000


def test_by_key_and_from_the_day_months_begin(rows, client) -> None:
    config = {"month": 9, "by": "key", "reset_day": 18}
    setting = PluginSetting.objects.create(name="quota", config=config)
    reconcile.reconcile(client, NOW)
    assert [taken(client, setting, "month", f"key:{key}", 18) for key in (1, 2, 3)] == [3, 1, 1]


def test_a_counter_is_never_lowered_and_goes_on_from_there(rows, client) -> None:
    setting = PluginSetting.objects.create(name="quota", config={"day": 6})
    key = f"{counter_prefix(setting.pk, period('day', NOW.timestamp()))}consumer:{ANN}"
    unit = [(key, Limit("period", 6, 3600.0))]
    client.eval(SCRIPT, *script_arguments([unit], costs=[2]))
    assert reconcile.reconcile(client, NOW) == 2
    reply = [client.eval(SCRIPT, *script_arguments([unit]))[:2] for _ in range(3)]
    assert reply == [[1, 1], [1, 0], [0, 0]]
    assert reconcile.reconcile(client, NOW) == 0
    assert taken(client, setting, "day", f"consumer:{ANN}") == 6


def test_each_setting_counts_the_rows_that_others_do_not_win(rows, client) -> None:
    place = Route.objects.create(id=99, name="other")
    everywhere = PluginSetting.objects.create(name="quota", config={"day": 9})
    there = PluginSetting.objects.create(name="quota", config={"day": 9}, route=place)
    reconcile.reconcile(client, NOW)
    assert [taken(client, one, "day", f"consumer:{ANN}") for one in (everywhere, there)] == [3, 1]
    ann = PluginSetting.objects.create(
        name="quota", config={"day": 9}, consumer=Consumer.objects.create(id=ANN, username="ann")
    )
    for key in client.scan_iter("hg:quota:*"):
        client.delete(key)
    reconcile.reconcile(client, NOW)
    assert [taken(client, one, "day", f"consumer:{ANN}") for one in (everywhere, there, ann)] == [0, 0, 4]
    assert taken(client, everywhere, "day", f"consumer:{BOB}") == 1


def test_a_loss_is_seen_by_the_mark(rows, client, monkeypatch) -> None:
    done = []
    monkeypatch.setattr(reconcile, "reconcile", lambda client, now: done.append(now))
    keeper = reconcile.Keeper(settings.REDIS_URL)
    client.delete(reconcile.MARK)
    for _ in range(5):
        keeper.turn()
    assert len(done) == reconcile.TIMES
    client.delete(reconcile.MARK)
    keeper.turn()
    assert len(done) == reconcile.TIMES + 1
    away = reconcile.Keeper("redis://127.0.0.1:1/0")
    away.turn()
    away._client = client
    away.turn()
    assert len(done) == reconcile.TIMES + 2, "what was counted without Redis is put back, too"


def test_the_command_does_it_at_once(rows, client, capsys) -> None:
    PluginSetting.objects.create(name="quota", config={"month": 9, "reset_day": 1})
    call_command("quotas")
    assert "counters were raised." in capsys.readouterr().out
