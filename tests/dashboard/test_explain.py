from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dashboard.explain import explain
from dashboard.models import UsageRow
from dashboard.names import Names
from gateway.plugins.base import Resources
from gateway.plugins.rate_limiting import RateLimiting, RateLimitingConfig
from gateway.proxy.errors import OUTCOMES, Reject
from gateway.proxy.limits import LocalCounters
from tests.proxy.exchanges import finished

NAMES = Names(routes={3: "orders"}, upstreams={7: "orders"}, consumers={5: "ann"}, keys={11: "hg_live_3f1aB"})
AT = datetime(2026, 11, 22, 10, 41, 55, tzinfo=UTC)


def row(outcome: str, status: int = 200, **fields: object) -> UsageRow:
    given = {
        "at": AT, "detail": "", "target": "127.0.0.1:9000", "route_id": 3, "upstream_id": 7, "consumer_id": 5,
        "key_id": 11,
        "duration_ms": 12.0, "gateway_ms": 0.5, "upstream_ms": 10.0, "tries": 1,
    }  # fmt: skip
    return UsageRow(outcome=outcome, status=status, **(given | fields))


@pytest.mark.parametrize(
    ("caller", "who"),
    [
        ("key:11", "Key hg_live_3f1aB… allows"),
        ("key:12", "Key 12 allows"),
        ("consumer:5", "Consumer ann may send"),
        ("route:3", "Route orders takes"),
        ("ip:192.0.2.1", "Address 192.0.2.1 may send"),
        ("jwt:4611686018427387904", "The caller that the token names may send"),
        ("oauth2:7", "The caller that the token names may send"),
        ("hmac:7", "The caller that the signature names may send"),
        ("ip:2001:db8::/64", "Address 2001:db8::/64 may send"),
        ("header:5f", "The value of the header allows"),
    ],
)
def test_a_limit_says_whose_it_is_how_much_and_when_there_is_room(caller, who):
    detail = f"rate-limiting: {caller} is over 100 per 60 s (sliding-window), room again in 12 s"
    said = explain(row("rate_limited", 429, detail=detail), NAMES)
    assert said == f"{who} 100 per 60 s; this would have been number 101; room again at 10:42:07 UTC."


@pytest.mark.parametrize("algorithm", ["sliding-window", "fixed-window", "token-bucket", "leaky-bucket"])
async def test_the_plugins_own_detail_is_understood(algorithm):
    config = RateLimitingConfig.model_validate(
        {"by": "key", "limits": [{"limit": 1, "window": "90s", "algorithm": algorithm}]}
    )

    class Counters:
        """The limiter's interface over one worker's memory."""

        local = LocalCounters()

        async def check(self, limits, cost=1):
            return self.local.check(limits, 1_000_000, cost)

    resources = Resources(limiter=Counters(), credentials=None, caller=None, clock=lambda: 0.0, wall=lambda: 0.0)  # type: ignore[arg-type]
    plugin, exchange = RateLimiting(config, resources, setting_id=1), finished()
    await plugin.access(exchange)
    with pytest.raises(Reject):
        await plugin.access(exchange)
    said = explain(row("rate_limited", 429, detail=exchange.detail), NAMES)
    assert said.startswith("Key hg_live_3f1aB… allows 1 per 90 s; ")
    assert "room again at 10:4" in said


@pytest.mark.parametrize("outcome", sorted(OUTCOMES))
def test_every_outcome_has_a_sentence(outcome):
    for said in (explain(row(outcome), NAMES), explain(row(outcome, upstream_ms=None, target=""), Names())):
        assert said.endswith(".")
        assert said[0].isupper()
        assert "_" not in said.replace("hg_live_", "")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (row("ok"), "Delivered: upstream orders (127.0.0.1:9000) answered 200 after 10 ms."),
        (row("ok", 503),
         ("Delivered: upstream orders (127.0.0.1:9000) answered 503 after 10 ms. "
          "The error is the upstream's own, passed on unchanged.")),
        (row("ok", tries=2),
         "Delivered: upstream orders (127.0.0.1:9000) answered 200 after 10 ms. It took 2 attempts."),
        (row("ok", detail="Dry run: acl would refuse (403 acl_denied): ann is in the denied group x"),
         ("Delivered: upstream orders (127.0.0.1:9000) answered 200 after 10 ms. "
          "In a dry run, acl would refuse (403 acl_denied): ann is in the denied group x.")),
        (row("acl_denied", 403, detail="acl: ann is in none of the allowed groups Dry run: quota would refuse (429 q)"),
         ("The route lets in certain groups only: ann is in none of the allowed groups. "
          "In a dry run, quota would refuse (429 q).")),
        (row("no_route", 404, detail="No route matches this host, path and method."),
         "No route matches this host, path and method."),
        (row("key_missing", 401, detail="This request has no API key. Send one."),
         "The route asks for an API key. This request has no API key. Send one."),
        (row("acl_denied", 403, detail="acl: ann is in none of the allowed groups"),
         "The route lets in certain groups only: ann is in none of the allowed groups."),
        (row("upstream_timeout", 504, duration_ms=2004.0),
         "Upstream orders (127.0.0.1:9000) did not answer in time: the gateway gave up after 2.00 s."),
        (row("client_closed", 499, upstream_ms=None),
         "The client left after 12 ms, before anything was sent upstream."),
    ],
)  # fmt: skip
def test_sentences(given, said):
    assert explain(given, NAMES) == said
