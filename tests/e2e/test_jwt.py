"""A file as people write it first: a route with a token and a limit, sent to a real gateway as it stands."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import jwt
import pytest

from tests.e2e.gateway import Gateway, wait_until
from tests.plugins.signing import encoded

FILE = """\
# routes.yaml
routes:
  - name: "example-api"
    path: "/api/v1/*"
    methods: ["GET", "POST"]
    targets:
      - url: "http://localhost:3000"
        weight: 100
    auth:
      type: "jwt"
      secret: "your-jwt-secret"
    rate_limit:
      requests: 1000
      window: "1m"
"""
SECRET = "your-jwt-secret"
YAML = {"Content-Type": "application/yaml"}


@pytest.fixture(scope="module")
def api(gateway: Gateway) -> Iterator[httpx.Client]:
    gateway.manage("prepare")
    token = gateway.manage("token", "create", "--user", "admin", "--scopes", "write", "--quiet").strip()
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"{gateway.url}/admin/v1", headers=headers) as client:
        yield client


@pytest.fixture(scope="module")
def made(api: httpx.Client, plain_upstream: int) -> httpx.Response:
    """The answer to the file. What it calls localhost:3000 listens elsewhere here."""
    answer = api.post("/routes?wait=1", content=FILE, headers=YAML)
    move(api, "example-api", plain_upstream)
    return answer


def move(api: httpx.Client, name: str, port: int) -> None:
    moved = api.patch(f"/upstreams/{name}?wait=1", json={"targets": [{"host": "127.0.0.1", "port": port}]})
    assert moved.status_code == 200, moved.text


def bearer(subject: str = "anna", **claims: object) -> dict[str, str]:
    claims = {"sub": subject, "exp": int(time.time()) + 300, **claims}
    with pytest.warns(jwt.warnings.InsecureKeyLengthWarning):  # the secret is of the file
        return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}


def test_the_file_is_one_version(made: httpx.Response, api: httpx.Client) -> None:
    assert (made.status_code, made.headers["X-Config-Version"]) == (201, "1"), made.text
    assert made.headers["X-Config-Applied"] == "1/1"
    settings = {item["name"]: item["config"] for item in api.get("/plugin-settings?route=example-api").json()["items"]}
    assert settings["rate-limiting"] == {"limits": [{"limit": 1000, "window": "1m"}]}
    assert settings["jwt"].keys() == {"secret"}
    everything = [api.get(path).text for path in ("/plugin-settings", "/versions/1", "/config", "/versions/2/diff")]
    assert not [text for text in everything if SECRET in text]


@pytest.mark.usefixtures("made")
class TestTraffic:
    def get(self, gateway: Gateway, headers: dict[str, str], path: str = "/api/v1/users") -> httpx.Response:
        return httpx.get(gateway.url + path, headers=headers)

    def test_only_a_token_opens_it(self, gateway: Gateway) -> None:
        missing = self.get(gateway, {})
        assert (missing.status_code, missing.json()["code"]) == (401, "token_missing")
        assert missing.headers["www-authenticate"] == 'Bearer realm="hydragate"'
        answer = self.get(gateway, bearer())
        assert (answer.status_code, answer.text) == (200, "ok")
        assert answer.headers["x-ratelimit-limit"] == "1000"

    def test_what_is_no_token_of_ours_does_not(self, gateway: Gateway) -> None:
        claims = encoded({"sub": "anna", "exp": int(time.time()) + 300})
        unsigned = encoded({"alg": "none", "typ": "JWT"}) + b"." + claims + b"."
        for headers, code in (
            ({"Authorization": f"Bearer {unsigned.decode()}"}, "token_invalid"),
            (bearer() | {"Authorization": bearer()["Authorization"][:-2]}, "token_invalid"),
            (bearer(exp=int(time.time()) - 1), "token_expired"),
        ):
            answer = self.get(gateway, headers)
            assert (answer.status_code, answer.json()["code"]) == (401, code)
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]

    def test_the_limit_counts_each_subject(self, gateway: Gateway, api: httpx.Client, plain_upstream: int) -> None:
        small = FILE.replace("example-api", "small").replace("/api/v1", "/small").replace("1000", "3")
        assert api.post("/routes?wait=1", content=small, headers=YAML).status_code == 201
        move(api, "small", plain_upstream)
        tokens = [bearer("anna"), bearer("anna", jti="another"), bearer("anna"), bearer("anna", jti="fourth")]
        statuses = [self.get(gateway, headers, "/small/x").status_code for headers in tokens]
        assert statuses == [200, 200, 200, 429]
        assert self.get(gateway, bearer("bob"), "/small/x").status_code == 200

    def test_a_consumer_of_that_name_is_on_the_usage_row(self, gateway: Gateway, api: httpx.Client) -> None:
        found = api.get("/plugin-settings?route=example-api").json()["items"]
        (setting,) = [item for item in found if item["name"] == "jwt"]
        config = setting["config"] | {"consumer_by": "username"}  # with the stand-in for the secret
        assert api.patch(f"/plugin-settings/{setting['id']}?wait=1", json={"config": config}).status_code == 200
        consumer = api.post("/consumers", json={"username": "carol"}).json()
        for subject in ("carol", "dave"):
            assert self.get(gateway, bearer(subject), f"/api/v1/{subject}").status_code == 200
        rows = "SELECT path, consumer_id, key_id FROM usage_row WHERE path IN ('/api/v1/carol', '/api/v1/dave')"
        stored = wait_until(lambda: len(rows_ := gateway.query(rows)) == 2 and rows_, what="both usage rows")
        assert sorted(stored) == [("/api/v1/carol", consumer["id"], None), ("/api/v1/dave", None, None)]
        assert api.patch("/consumers/carol", json={"enabled": False}).status_code == 200
        wait_until(lambda: self.get(gateway, bearer("carol")).status_code == 401, what="the disabled consumer's 401")
        refused = self.get(gateway, bearer("carol"))
        assert refused.json()["code"] == "consumer_disabled"
