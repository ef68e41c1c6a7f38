"""Two people at once, and the same request twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from gateway.api.models import KeptAnswer
from routes.api import examples
from routes.models import ConfigVersion, Upstream


def test_a_stale_if_match_is_412_and_changes_nothing(call):
    first = call("POST", "/upstreams", examples.UPSTREAM)["ETag"]
    answer = call("PATCH", "/upstreams/users", {"retries": 2}, headers={"If-Match": first})
    assert answer.status_code == 200
    for method, body in (("PATCH", {"retries": 3}), ("PUT", examples.UPSTREAM), ("DELETE", None)):
        stale = call(method, "/upstreams/users", body, headers={"If-Match": first})
        assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
    assert call("GET", "/upstreams/users").json()["retries"] == 2
    current = {"If-Match": f'"other", {answer["ETag"]}'}
    assert call("PATCH", "/upstreams/users", {"retries": 4}, headers=current).status_code == 200
    assert call("DELETE", "/upstreams/users", headers={"If-Match": "*"}).status_code == 204


def test_if_none_match_saves_the_reading(call):
    tag = call("POST", "/upstreams", examples.UPSTREAM)["ETag"]
    answer = call("GET", "/upstreams/users", headers={"If-None-Match": f"W/{tag}"})
    assert (answer.status_code, answer.content, answer["ETag"]) == (304, b"", tag)
    listed = call("GET", "/upstreams")["ETag"]
    assert call("GET", "/upstreams", headers={"If-None-Match": listed}).status_code == 304
    call("PATCH", "/upstreams/users", {"retries": 2})
    assert call("GET", "/upstreams", headers={"If-None-Match": listed}).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_of_many_writers_with_the_same_etag_one_wins(call):
    tag = call("POST", "/upstreams", examples.UPSTREAM)["ETag"]

    def write(retries):
        try:
            answer = call("PATCH", "/upstreams/users", {"retries": retries}, headers={"If-Match": tag})
            return answer.status_code
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        codes = sorted(pool.map(write, range(2, 8)))
    assert codes == [200, 412, 412, 412, 412, 412]
    assert ConfigVersion.objects.count() == 2


def test_the_same_create_again_gets_the_first_answer(call):
    key = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
    first = call("POST", "/upstreams", examples.UPSTREAM, headers=key)
    again = call("POST", "/upstreams", examples.UPSTREAM, headers=key)
    assert (again.status_code, again.content) == (201, first.content)
    assert again["Idempotency-Replayed"] == "true"
    for name in ("ETag", "Location", "X-Config-Version"):
        assert again[name] == first[name]
    assert Upstream.objects.count() == 1
    other = call("POST", "/upstreams", examples.UPSTREAM | {"name": "x"}, headers=key)
    assert other.status_code == 422
    assert other.json()["errors"] == [{"parameter": "Idempotency-Key", "detail": "Use a new key."}]


def test_a_create_that_failed_may_be_tried_again(call):
    key = {"Idempotency-Key": "k"}
    assert call("POST", "/upstreams", {"name": "a b"}, headers=key).status_code == 422
    assert not KeptAnswer.objects.exists()
    assert call("POST", "/upstreams", examples.UPSTREAM, headers=key).status_code == 201


def test_a_key_counts_for_its_user_and_for_a_day(call, call_as, clerk):
    key = {"Idempotency-Key": "k"}
    assert call("POST", "/upstreams", examples.UPSTREAM, headers=key).status_code == 201
    other = call_as(clerk("routes.add_upstream"), "write")
    assert other("POST", "/upstreams", examples.UPSTREAM, headers=key).status_code == 409
    with connection.cursor() as cursor:
        cursor.execute("UPDATE api_keptanswer SET created_at = created_at - interval '25 hours'")
    assert call("POST", "/upstreams", examples.UPSTREAM | {"name": "x"}, headers=key).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there"])
def test_a_key_that_is_none_is_400(call, key):
    answer = call("POST", "/upstreams", examples.UPSTREAM, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (400, "Idempotency-Key")


@pytest.mark.django_db(transaction=True)
def test_the_same_create_at_the_same_time_happens_once(call):
    def create(_):
        try:
            answer = call("POST", "/upstreams", examples.UPSTREAM, headers={"Idempotency-Key": "k"})
            return answer.status_code
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(create, range(6))) == {201}
    assert Upstream.objects.count() == 1
