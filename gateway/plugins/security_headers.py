"""security-headers: tells browsers what pages of a route may not do, and strangers less about the server.

Phases   response
Fails    never: what could fail is refused when the setting is made
Compare  Kong's response-transformer, by which they are set there one by one

Errors of the gateway get the fields too. A field the upstream has sent stays as it is unless `override` says otherwise:
an application knows its pages better.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.edits import check_name
from gateway.proxy import headers
from gateway.proxy.exchange import Exchange

PRELOAD_MIN_S = 31_536_000  # https://hstspreload.org/#submission-requirements
Policy = Annotated[str, StringConstraints(max_length=4096, pattern=r"^([!-~]([ -~]*[!-~])?)?$")]
FieldName = Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(check_name)]


class SecurityHeadersConfig(PluginConfig):
    hsts_max_age_s: int | None = Field(31_536_000, ge=0, le=157_680_000)
    """`Strict-Transport-Security`: for so long browsers come over HTTPS only. 0: they forget it. None: not sent."""
    hsts_include_subdomains: bool = False
    """For all names below the host, too."""
    hsts_preload: bool = False
    """Consent to be built into browsers. Hard to take back; needs a year and `hsts_include_subdomains`."""
    nosniff: bool = True
    """`X-Content-Type-Options: nosniff`: the content is what its type says."""
    x_frame_options: Literal["DENY", "SAMEORIGIN", ""] = "SAMEORIGIN"
    """Who may put a page into a frame. Empty: not sent."""
    referrer_policy: Literal[
        "no-referrer", "no-referrer-when-downgrade", "origin", "origin-when-cross-origin", "same-origin",
        "strict-origin", "strict-origin-when-cross-origin", "unsafe-url", "",
    ] = "strict-origin-when-cross-origin"  # fmt: skip
    """What links and requests of a page say about where they come from. Empty: not sent."""
    permissions_policy: Policy = ""
    """Which features a page may use, such as `camera=(), geolocation=(self)`. Empty: not sent."""
    content_security_policy: Policy = ""
    """From where a page may load what, such as `default-src 'self'`. Empty: not sent."""
    content_security_policy_report_only: Policy = ""
    """Likewise, to try one out: browsers report and let everything happen. Empty: not sent."""
    cross_origin_opener_policy: Literal[
        "unsafe-none", "same-origin-allow-popups", "same-origin", "noopener-allow-popups", ""
    ] = ""
    """Which windows a page shares a context with. Empty: not sent."""
    cross_origin_embedder_policy: Literal["unsafe-none", "require-corp", "credentialless", ""] = ""
    """What a page may embed without the other side's consent. Empty: not sent."""
    cross_origin_resource_policy: Literal["same-site", "same-origin", "cross-origin", ""] = ""
    """Whose pages may embed the answer. Empty: not sent."""
    remove: tuple[FieldName, ...] = Field(("Server", "X-Powered-By"), max_length=100)
    """Fields of the upstream that go: they tell strangers what runs there."""
    override: bool = False
    """Replace what the upstream sends of these fields."""

    @model_validator(mode="after")
    def _fits_together(self) -> SecurityHeadersConfig:
        age_s = self.hsts_max_age_s
        if self.hsts_preload and (not self.hsts_include_subdomains or (age_s or 0) < PRELOAD_MIN_S):
            raise ValueError(
                f"hsts_preload needs hsts_include_subdomains, and hsts_max_age_s of {PRELOAD_MIN_S} or more."
            )
        if age_s is None and self.hsts_include_subdomains:
            raise ValueError("hsts_include_subdomains needs hsts_max_age_s.")
        sent = {name for name, _ in (*fields_of(self), *_hsts(self))}
        if both := sorted(name for name in self.remove if name.lower().encode() in sent):
            raise ValueError(f"These are sent and cannot be removed: {', '.join(both)}.")
        return self


class SecurityHeaders(Plugin):
    name = "security-headers"
    Config = SecurityHeadersConfig
    config: SecurityHeadersConfig

    def __init__(self, config: SecurityHeadersConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        plain = fields_of(config)
        self._fields = {"http": plain, "https": plain + _hsts(config)}  # RFC 6797 §7.2: never over HTTP
        replaced = {name for name, _ in self._fields["https"]} if config.override else set()
        self._dropped = frozenset(replaced | {name.lower().encode() for name in config.remove})

    def response(self, exchange: Exchange) -> None:
        pairs = exchange.response_headers
        assert pairs is not None
        pairs[:] = [pair for pair in pairs if pair[0] not in self._dropped]
        there = {name for name, _ in pairs}
        pairs += [pair for pair in self._fields[exchange.scheme] if pair[0] not in there]


def fields_of(config: SecurityHeadersConfig) -> headers.Pairs:
    """Those for both schemes."""
    texts = {
        "x-content-type-options": "nosniff" if config.nosniff else "",
        "x-frame-options": config.x_frame_options,
        "referrer-policy": config.referrer_policy,
        "permissions-policy": config.permissions_policy,
        "content-security-policy": config.content_security_policy,
        "content-security-policy-report-only": config.content_security_policy_report_only,
        "cross-origin-opener-policy": config.cross_origin_opener_policy,
        "cross-origin-embedder-policy": config.cross_origin_embedder_policy,
        "cross-origin-resource-policy": config.cross_origin_resource_policy,
    }
    return [(name.encode(), text.encode()) for name, text in texts.items() if text]


def _hsts(config: SecurityHeadersConfig) -> headers.Pairs:
    if config.hsts_max_age_s is None:
        return []
    value = f"max-age={config.hsts_max_age_s}"
    value += "; includeSubDomains" * config.hsts_include_subdomains + "; preload" * config.hsts_preload
    return [(b"strict-transport-security", value.encode())]
