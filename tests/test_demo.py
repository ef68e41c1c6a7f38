"""The demo is made once, follows its upstream's port, and stays deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import demo
from gateway.embedded import places
from gateway.embedded.places import Places
from gateway.management import invitation
from keys import secrets
from keys.models import ApiKey, Consumer
from keys.services import key_revoke
from routes.models import ConfigVersion, Route, Target, Upstream

pytestmark = pytest.mark.django_db


@pytest.fixture
def here(tmp_path: Path) -> Places:
    here = places.at(tmp_path)
    here.secrets.mkdir()
    return here


def port() -> int:
    return ConfigVersion.objects.get(live=True).document["upstreams"][0]["targets"][0]["port"]


def test_an_empty_gateway_gets_it_published_with_a_key_that_works(here: Places) -> None:
    assert demo.load(here, 4000)
    assert port() == 4000
    assert secrets.checksum_ok(here.secret(invitation.KEY_FILE))
    assert ApiKey.objects.filter(digest=secrets.digest(here.secret(invitation.KEY_FILE))).exists()


def test_again_changes_nothing(here: Places) -> None:
    demo.load(here, 4000)
    key = here.secret(invitation.KEY_FILE)
    assert demo.load(here, 4000)
    assert here.secret(invitation.KEY_FILE) == key
    assert ConfigVersion.objects.count() == 1


def test_another_port_is_published(here: Places) -> None:
    demo.load(here, 4000)
    assert demo.load(here, 4001)
    assert port() == 4001


def test_a_configuration_of_your_own_keeps_it_out(here: Places) -> None:
    Consumer.objects.create(username="alice")
    assert not demo.load(here, 4000)
    assert not Upstream.objects.exists()


@pytest.mark.parametrize("way", ["upstream", "key"])
def test_once_deleted_it_stays_away(here: Places, way: str) -> None:
    demo.load(here, 4000)
    if way == "upstream":
        Route.objects.all().delete()
        Target.objects.all().delete()
        Upstream.objects.all().delete()
    else:
        key_revoke(ApiKey.objects.get(), by="test")
    assert not demo.load(here, 4000)
    assert not (here.secrets / invitation.KEY_FILE).exists()
    assert not demo.load(here, 4000)


def test_a_key_of_another_database_is_replaced(here: Places) -> None:
    here.secret_write(invitation.KEY_FILE, secrets.generate().text)
    assert demo.load(here, 4000)
    assert ApiKey.objects.filter(digest=secrets.digest(here.secret(invitation.KEY_FILE))).exists()


def test_the_earlier_port_is_taken_again_if_it_is_free(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with invitation.listener(tmp_path) as first:
        earlier = first.getsockname()[1]
        first.listen()
        with invitation.listener(tmp_path) as other:
            assert other.getsockname()[1] != earlier
            later = other.getsockname()[1]
    with invitation.listener(tmp_path) as again:
        assert again.getsockname()[1] == later
