from __future__ import annotations

import pytest

from gateway.plugins.bot_detection import MAX_REMEMBERED, MAX_REMEMBERED_BYTES, BotDetection, BotDetectionConfig
from gateway.plugins.registry import ConfigProblems
from gateway.proxy.errors import Reject
from tests.proxy.gatewaying import Bench, route, setting, table, target, upstream
from tests.upstream import OK, answering, serving

FIREFOX = b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
GOOGLE = b"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"


def passes(plugin, exchange_of, *agents: bytes) -> bool:
    def once() -> bool:
        try:
            plugin.access(exchange_of(headers=[(b"user-agent", agent) for agent in agents]))
        except Reject:
            return False
        return True

    first = once()
    assert once() == first  # now it is remembered
    return first


def test_the_refusal_is_403(make, exchange_of) -> None:
    with pytest.raises(Reject) as caught:
        make("bot-detection").access(exchange_of(headers=[(b"user-agent", GOOGLE)]))
    assert (caught.value.status, caught.value.code) == (403, "bot_detected")


@pytest.mark.parametrize(
    ("agent", "wanted"),
    [
        (FIREFOX, True),
        (b"curl/8.14.1", True),
        (b"python-httpx/0.28", True),
        (b"", True),
        (b"Mozilla/5.0 (Linux; Android 9; CUBOT X19) AppleWebKit/537.36", True),
        (b"Mozilla/5.0 (Linux; Android 13; ROBOTIC_TAB)", True),
        (b"\xff\xfe", True),
        (GOOGLE, False),
        (b"SomeBot", False),
        (b"facebookexternalhit/1.1", False),
        (b"Mozilla/5.0 (compatible; Yahoo! Slurp)", False),
        (b"Screaming Frog SEO Spider/20", False),
        (b"Scrapy/2.11", False),
        (b"HeadlessChrome/130", False),
    ],
)
def test_known_bots_are_refused(make, exchange_of, agent: bytes, wanted: bool) -> None:
    assert passes(make("bot-detection"), exchange_of, agent) == wanted


@pytest.mark.parametrize(
    ("config", "agents", "wanted"),
    [
        ({"allow": ["Googlebot/"]}, [GOOGLE], True),
        ({"allow": ["googlebot/"]}, [GOOGLE], False),
        ({"allow": ["(?i)googlebot/"], "deny": ["Google"]}, [GOOGLE], True),
        ({"deny": ["Firefox/1[0-9]{2}"]}, [FIREFOX], False),
        ({"deny": ["^$"]}, [], False),
        ({"deny": ["^$"]}, [b""], False),
        ({"deny": ["^curl/"], "deny_known": False}, [GOOGLE], True),
        ({"deny": ["^curl/"]}, [b"curl/8"], False),
        ({}, [FIREFOX, GOOGLE], False),
    ],
)
def test_lists_decide_and_allow_comes_first(make, exchange_of, config, agents, wanted) -> None:
    assert passes(make("bot-detection", config), exchange_of, *agents) == wanted


def test_what_is_remembered_is_bounded(make, exchange_of) -> None:
    plugin = make("bot-detection")
    for number in range(MAX_REMEMBERED + 10):
        plugin.access(exchange_of(headers=[(b"user-agent", b"agent/%d" % number)]))
    assert len(plugin._known) == 10
    plugin.access(exchange_of(headers=[(b"user-agent", b"x" * (MAX_REMEMBERED_BYTES + 1))]))
    assert len(plugin._known) == 10


async def test_the_upstream_is_not_asked_for_a_bot() -> None:
    settings = [setting(BotDetection, config=BotDetectionConfig())]
    async with serving(answering(OK)) as up:
        routing = table([route("r")], [upstream("up", target(up.port))], [BotDetection], settings)
        async with Bench(routing) as bench:
            bot, _ = await bench.get("/", headers=[(b"user-agent", GOOGLE)])
            browser, _ = await bench.get("/", headers=[(b"user-agent", FIREFOX)])
    assert (bot.status, browser.status, len(up.heads)) == (403, 200, 1)
    assert "Googlebot" in bot.detail


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"deny": ["("]}, "is not a regular expression RE2 accepts"),
        ({"allow": [r"(a)\1"]}, "is not a regular expression RE2 accepts"),
        ({"deny": [""]}, "at least 1 character"),
        ({"deny_known": False}, "at least one expression"),
    ],
)
def test_expressions_that_cannot_work_are_refused(registry, config, said) -> None:
    with pytest.raises(ConfigProblems) as caught:
        registry.validate("bot-detection", config)
    assert said in str(caught.value)
