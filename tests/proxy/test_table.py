from __future__ import annotations

import pytest

from gateway.proxy.snapshot import PluginSpec, Scope
from gateway.proxy.table import Settings

ORDER = ("cors", "key-auth", "rate-limiting")


def setting(id_: int, name: str, scope: Scope, place: str = "", consumer_id: int = 0) -> PluginSpec:
    route = place if scope.startswith("route") else ""
    upstream = place if scope.startswith("upstream") else ""
    return PluginSpec(
        id=id_, name=name, scope=scope, route=route, upstream=upstream, consumer_id=consumer_id, config=None
    )


LIMITS = [
    setting(1, "rate-limiting", "global"),
    setting(2, "rate-limiting", "upstream", "u"),
    setting(3, "rate-limiting", "route", "r"),
    setting(4, "rate-limiting", "consumer", consumer_id=7),
    setting(5, "rate-limiting", "upstream_consumer", "u", consumer_id=7),
    setting(6, "rate-limiting", "route_consumer", "r", consumer_id=7),
]


def test_what_could_apply_comes_most_specific_first():
    settings = Settings(LIMITS, ORDER)
    assert [s.id for s in settings.applying("r", "u")] == [6, 5, 4, 3, 2, 1]
    assert [s.id for s in settings.applying("other", "other")] == [4, 1]


@pytest.mark.parametrize(("consumer_id", "winner"), [(0, 3), (8, 3), (7, 6)])
def test_the_most_specific_setting_of_a_plugin_wins_whole(consumer_id, winner):
    settings = Settings(LIMITS, ORDER)
    assert [s.id for s in settings.chosen(settings.applying("r", "u"), consumer_id)] == [winner]


def test_plugins_stand_in_the_order_they_run_and_unknown_ones_last():
    rows = [setting(n, name, "global") for n, name in enumerate(("b", "rate-limiting", "a", "cors"))]
    settings = Settings(rows, ORDER)
    assert [s.name for s in settings.chosen(settings.applying("r", "u"))] == ["cors", "rate-limiting", "a", "b"]
