"""The demo that `manage.py up` loads into an empty gateway: an echo upstream, an open route, a guarded one, one key.

`secrets/demo-key` exists exactly as long as the demo does: whoever deletes the demo's upstream or revokes its key in
the dashboard has got rid of it, and no later start brings it back.
"""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone

from gateway.embedded.places import Places
from gateway.management.invitation import KEY_FILE
from keys import secrets
from keys.models import ApiKey, Consumer
from keys.services import key_create
from routes.models import ConfigVersion, PluginSetting, Route, RouteUpstream, Target, Upstream
from routes.services import change, publish

PER_MINUTE = 100
UPSTREAM = "demo-echo"


def load(places: Places, port: int) -> bool:
    """Whether the demo is there when this returns, with its upstream at `port`. Makes it in an empty gateway only."""
    key_file = places.secrets / KEY_FILE
    with transaction.atomic():
        if key_file.exists() and _lives(key_file.read_text().strip()):
            _move(port)
            return True
        key_file.unlink(missing_ok=True)
        if any(model.objects.exists() for model in (ConfigVersion, Upstream, Route, Consumer)):
            return False
        places.secret_write(KEY_FILE, _make(port))  # before the commit: a file without rows is swept up above
        return True


def _lives(key: str) -> bool:
    return (
        Upstream.objects.filter(name=UPSTREAM).exists()
        and ApiKey.objects.live(timezone.now()).filter(digest=secrets.digest(key)).exists()
    )


def _move(port: int) -> None:
    moved = Target.objects.filter(upstream__name=UPSTREAM, host="127.0.0.1").exclude(port=port)
    if moved.exists():
        with change(author="up", source="demo"):
            moved.update(port=port)


def _make(port: int) -> str:
    """Gives the key's secret."""
    consumer = Consumer.objects.create(username="demo", note="Made by `manage.py up`.")
    with change(author="up", source="demo"):
        upstream = Upstream.objects.create(name=UPSTREAM)
        Target.objects.create(upstream=upstream, host="127.0.0.1", port=port)
        for name in ("echo", "secure"):
            route = Route.objects.create(name=f"demo-{name}", paths=[f"/{name}/*"])
            RouteUpstream.objects.create(route=route, upstream=upstream)
        PluginSetting.objects.create(name="key-auth", route=route)
        PluginSetting.objects.create(name="rate-limiting", route=route, config={"minute": PER_MINUTE})
    publish(author="up", source="demo")  # also where changes gather as drafts: the printed line has to work
    _, secret = key_create(consumer, name="demo", by="up")
    return secret
