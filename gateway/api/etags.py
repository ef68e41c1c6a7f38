"""Strong ETags: the digest of what is answered. `If-None-Match` saves the reading, `If-Match` a lost update."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from django.utils.http import parse_etags
from rest_framework.request import Request
from rest_framework.utils.encoders import JSONEncoder

from gateway.api.problems import PreconditionFailed


def etag(representation: Any, media_type: str = "application/json") -> str:
    """Of one representation: the same as YAML is another."""
    text = json.dumps([media_type, representation], sort_keys=True, separators=(",", ":"), cls=JSONEncoder)
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def check_match(request: Request, representation: Any) -> None:
    """Call it where nobody else can write (inside `services.change`, or with the row locked).

    Raises PreconditionFailed when the client holds an older state than the one about to be changed.
    """
    wanted = request.headers.get("If-Match")
    if wanted is not None and not matches(wanted, etag(representation), weak=False):
        raise PreconditionFailed()


def matches(field: str, current: str, *, weak: bool) -> bool:
    """RFC 9110 §13.1: `If-Match` compares strongly, `If-None-Match` weakly."""
    tags = parse_etags(field)
    return "*" in tags or current in [tag.removeprefix("W/") if weak else tag for tag in tags]
