"""A problem of a configuration: what is wrong, and exactly where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field as _field

Path = tuple[str | int, ...]
#: Which row: kind and name, then kind and name of a part of it. `("upstreams", "users", "targets", "10.0.0.1:80")`.
Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """`row` and `field` say it by names, which hold in any document; `pointer` (RFC 6901) by place in this one.

    An empty `row` is the document as a whole, an empty `field` the row as a whole.
    """

    row: Row
    field: Path
    message: str
    pointer: str = _field(default="", compare=False)

    @property
    def where(self) -> str:
        """For people: `routes["users"].paths[0]`."""
        parts = [f'{kind}["{name}"]' for kind, name in zip(self.row[::2], self.row[1::2], strict=True)]
        return _printable(dotted((*parts, *self.field))) or "document"

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


def pointer(path: Path) -> str:
    return _printable("".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path))


def _printable(text: str) -> str:
    """Half a surrogate pair, which JSON can say, as an escape: what names a problem can always be sent."""
    return text.encode(errors="backslashreplace").decode()


def dotted(path: Path) -> str:
    """`limits[0].window`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class CompileError(ValueError):
    """The configuration cannot go live. `problems` are all there are, in the order of the document."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))
