"""A real OpenID provider, as small as can be: it sees what it would see, over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import jwt

from tests.plugins.signing import NOW_S, private_key, signed_by
from tests.upstream import Wire


class Service:
    """`claims` go into its ID tokens; `says` replaces the answer to a code."""

    def __init__(self) -> None:
        self.port = 0
        self.metadata: dict[str, Any] = {}
        self.claims: dict[str, Any] = {"sub": "anna", "email": "anna@example.com", "groups": ["staff"]}
        self.says: tuple[int, Any] | None = None
        self.codes: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        self.forms: list[dict[str, str]] = []
        self.authorization: list[str] = []

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}/realm"

    async def script(self, wire: Wire) -> None:
        while head := await wire.head():
            line, *fields = head.decode().split("\r\n")
            path, named = line.split()[1], dict(field.lower().split(": ", 1) for field in fields if field)
            form = dict(parse_qsl((await wire.body(int(named.get("content-length", 0)))).decode()))
            self.asked.append(path)
            self.authorization += [field[15:] for field in fields if field.lower().startswith("authorization: ")]
            status, said = self._answer(path, form)
            body = json.dumps(said).encode()
            await wire.send(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body)

    def _answer(self, path: str, form: dict[str, str]) -> tuple[int, Any]:
        if path.endswith("/.well-known/openid-configuration"):
            urls = {f"{name}_endpoint": f"{self.issuer}/{name}" for name in ("authorization", "token", "end_session")}
            return 200, {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/jwks", **urls, **self.metadata}
        if path.endswith("/jwks"):
            key = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(private_key("ES256").public_key()))
            return 200, {"keys": [{**key, "kid": "k1", "use": "sig"}]}
        self.forms.append(form)
        if self.says is not None:
            return self.says
        began = self.codes.pop(form["code"], {})
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        if began.get("code_challenge") != challenge.decode() or began["redirect_uri"] != form["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        return 200, {"access_token": "a", "token_type": "Bearer", "id_token": self.id_token(nonce=began["nonce"])}

    def id_token(self, **claims: Any) -> str:
        said = {"iss": self.issuer, "aud": "gw", "iat": NOW_S, "exp": NOW_S + 300, **self.claims, **claims}
        said = {name: value for name, value in said.items() if value is not None}
        return signed_by("ES256", said, kid="k1").decode()

    def log_in(self, location: bytes) -> str:
        """Somebody types a password; the query of the way back."""
        said = {name: values[0] for name, values in parse_qs(urlsplit(location.decode()).query).items()}
        code = f"code{len(self.codes)}"
        self.codes[code] = said
        return urlencode({"state": said["state"], "code": code})

    def config(self, **more: Any) -> dict[str, Any]:
        return {"issuer": self.issuer, "client_id": "gw", "client_secret": "a:b " * 10, **more}
