"""A plugin with secrets in every kind of place."""

from pydantic import Field, SecretStr

from gateway.plugins.base import Plugin, PluginConfig


class Door(PluginConfig):
    key: SecretStr
    open: bool = True


class Vault(Plugin):
    name = "vault"

    class Config(PluginConfig):
        url: str = ""
        password: SecretStr = SecretStr("")
        token: str = Field("", pattern="^tok", json_schema_extra={"writeOnly": True})
        signing: dict[str, str] = Field({}, json_schema_extra={"writeOnly": True})
        keys: list[SecretStr] = []
        doors: tuple[Door, ...] = ()
        by_name: dict[str, SecretStr] = {}
        either: SecretStr | int | None = None
