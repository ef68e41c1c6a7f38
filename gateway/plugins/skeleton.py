"""What `manage.py plugin new` writes: a plugin that works, its test that passes, its page. Pure: texts by path."""

from __future__ import annotations

import keyword
import re
import sys

PLUGIN = '''\
"""{name}: adds a field to the request and to the answer, and refuses requests that have it already.

Phases   access, response
Fails    403 `{code}`
"""

from __future__ import annotations

from pydantic import Field

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.proxy import headers
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Exchange


class {title}Config(PluginConfig):
    """Each field has a type, bounds, a default and a description: they make the form, the schema and the checks."""

    header: str = Field("x-{name}", max_length=100, pattern=r"^[A-Za-z0-9-]+$")
    """The field's name."""
    text: str = Field("hello", max_length=100, pattern=r"^[ -~]*$")
    """What to write there. May be a reference such as `${{env:PLUGIN_TEXT}}`."""


class {title}(Plugin):
    name = "{name}"
    Config = {title}Config
    config: {title}Config

    def __init__(self, config: {title}Config, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._field = (config.header.lower().encode(), config.text.encode())  # once, not for each request

    def access(self, exchange: Exchange) -> None:
        """Before the request goes upstream. What it changes in `exchange.headers` goes there."""
        if headers.get(exchange.headers, self._field[0]) is not None:
            raise Reject(403, "{code}", f"Requests may not say {{self.config.header}} by themselves.")
        exchange.headers.append(self._field)

    def response(self, exchange: Exchange) -> None:
        """Before the answer goes to the client, also one that the gateway made itself."""
        assert exchange.response_headers is not None
        exchange.response_headers.append(self._field)
'''

TEST = """\
from __future__ import annotations

from pathlib import Path

import pytest

from gateway.plugins import trying
from gateway.plugins.registry import ConfigProblems
from gateway.proxy.errors import Reject

FILE = Path(__file__).resolve().parents[1] / "{module}.py"


@pytest.mark.asyncio
async def test_the_field_goes_upstream_and_to_the_client() -> None:
    plugin = trying.plugin(FILE, text="good day")
    exchange = trying.request("GET", "/orders")
    assert await trying.access(plugin, exchange) is None
    assert exchange.headers == [(b"x-{name}", b"good day")]
    assert await trying.response(plugin, exchange) == {{"x-{name}": "good day"}}


@pytest.mark.asyncio
async def test_a_client_cannot_write_it() -> None:
    plugin = trying.plugin(FILE)
    with pytest.raises(Reject) as refused:
        await trying.access(plugin, trying.request(headers={{"X-{header}": "mine"}}))
    assert (refused.value.status, refused.value.code) == (403, "{code}")


def test_what_is_no_header_is_refused() -> None:
    with pytest.raises(ConfigProblems):
        trying.plugin(FILE, header="not a header")
"""

PAGE = """\
# {name}

Adds a field to the request and to the answer, and refuses requests that have it already.

```yaml
plugin: {name}
config:
  header: X-{header}
  text: hello
```

| field | type | default | meaning |
|---|---|---|---|
| `header` | string, at most 100 characters | `x-{name}` | The field's name. |
| `text` | string, at most 100 characters | `hello` | What to write there. |

| status | code | when |
|---|---|---|
| 403 | `{code}` | the request has the field already |
"""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def files(name: str) -> dict[str, str]:
    """Path below the directory of plugins → text. Raises ValueError for what cannot be a plugin's name."""
    module = name.replace("-", "_")
    if not _NAME.fullmatch(name) or len(name) > 60:
        raise ValueError(f"'{name}' is no name such as office-hours: small letters, digits and '-', a letter first.")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names:
        raise ValueError(f"'{name}' is a word or module of Python's own. Choose another name.")
    words = {
        "name": name,
        "module": module,
        "title": name.title().replace("-", ""),
        "header": name.title(),
        "code": f"{module}_refused",
    }
    return {
        f"{module}.py": PLUGIN.format(**words),
        f"tests/test_{module}.py": TEST.format(**words),
        f"docs/{name}.md": PAGE.format(**words),
    }
