from __future__ import annotations

from routes.difference import RowChange, changes, difference

BEFORE = {
    "upstreams": [{"id": 1, "name": "users", "retries": 1}],
    "routes": [{"id": 1, "name": "gone", "paths": ["/a"]}],
    "plugins": [{"id": 1, "name": "cors", "route": "", "upstream": "", "consumer": "", "config": {}}],
}
AFTER = {
    "upstreams": [{"id": 1, "name": "users", "retries": 3}],
    "routes": [{"id": 2, "name": "new", "paths": ["/a"]}],
    "plugins": [{"id": 1, "name": "cors", "route": "new", "upstream": "", "consumer": "", "config": {}}],
}


def test_each_row_that_differs_is_named_with_its_fields_before_and_after():
    assert changes(BEFORE, AFTER) == [
        RowChange("upstreams", "users", "changed", {"retries": (1, 3)}),
        RowChange("routes", "gone", "removed", {}),
        RowChange("routes", "new", "added", {}),
        RowChange("plugins", "cors", "removed", {}),
        RowChange("plugins", "cors route=new", "added", {}),
    ]


def test_a_line_for_each():
    assert difference(BEFORE, AFTER) == [
        '~ upstreams["users"]: retries',
        '- routes["gone"]',
        '+ routes["new"]',
        '- plugins["cors"]',
        '+ plugins["cors route=new"]',
    ]


def test_equal_documents_do_not_differ():
    assert changes(AFTER, AFTER) == []


def test_a_field_that_an_older_version_lacks_was_at_its_default():
    newer = {"upstreams": [{"id": 1, "name": "users", "retries": 1, "eject_after": 5, "probe": "none"}]}
    assert difference({"upstreams": BEFORE["upstreams"]}, newer) == []
    newer["upstreams"][0]["eject_after"] = 0
    assert difference({"upstreams": BEFORE["upstreams"]}, newer) == ['~ upstreams["users"]: eject_after']
