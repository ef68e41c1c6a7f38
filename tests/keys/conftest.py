from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from keys.models import Consumer


@pytest.fixture
def anna(db: None) -> Consumer:
    from keys import services  # not above: this file is read before Django is set up

    return services.consumer_create("anna", custom_id="A-1", groups=["staff", "beta"])
