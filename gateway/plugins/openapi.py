"""An OpenAPI 3.1 document as what its requests must look like: an `Operation` for each path and method.

What is read: paths, parameters of paths and operations, request bodies, references into the same document. A path that
is written out goes before one with parameters, as the specification wants it. Raises ValueError with a sentence.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from gateway.plugins.schemas import Operation, Parameter, Schema, document_of, parameter_of, registry_of

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_NAME = "urn:hydragate:openapi"
_PARAMETER = re.compile(r"\{([^{}/]+)\}")


class Document:
    def __init__(self, text: str, prefix: str = "") -> None:
        self._whole = document_of(text)
        if not isinstance(self._whole, dict) or not str(self._whole.get("openapi", "")).startswith("3.1."):
            raise ValueError("This is no OpenAPI 3.1 document: its `openapi` must be 3.1.x (convert a 3.0 one first).")
        try:
            self._registry = registry_of(_NAME, self._whole)
        except ValueError as error:
            raise ValueError(f"The OpenAPI document cannot be used: {error}.") from None
        self._prefix = (prefix or self._server_path()).rstrip("/")
        self._exact: dict[str, dict[str, Operation]] = {}
        self._patterns: list[tuple[re.Pattern[str], list[str], dict[str, Operation]]] = []
        paths = self._whole.get("paths") or {}
        if not isinstance(paths, dict):
            raise ValueError("The OpenAPI document's `paths` is no object.")
        for path in sorted(paths, key=lambda path: path.count("{")):
            self._add(path)

    def find(self, path: str) -> tuple[dict[str, Operation], dict[str, str]] | None:
        """The operations by method, and what the path's parameters are."""
        if self._prefix:
            if not path.startswith(self._prefix + "/"):
                return None
            path = path[len(self._prefix) :]
        if path in self._exact:
            return self._exact[path], {}
        for pattern, names, operations in self._patterns:
            if found := pattern.fullmatch(path):
                texts = (unquote(text, errors="replace") for text in found.groups())
                return operations, dict(zip(names, texts, strict=True))
        return None

    def _server_path(self) -> str:
        servers = self._whole.get("servers") or [{}]
        return urlsplit(str(servers[0].get("url", ""))).path

    def _add(self, path: str) -> None:
        item, place = self._at(self._whole["paths"][path], f"/paths/{_step(path)}")
        operations = {}
        for method in METHODS:
            if method in item:
                try:
                    operations[method.upper()] = self._operation(item, place, method)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ValueError(f"The OpenAPI document at {method.upper()} {path}: {error}") from None
        if "{" not in path:
            self._exact[path] = operations
            return
        names = _PARAMETER.findall(path)
        literals = _PARAMETER.split(path)[::2]
        pattern = "([^/]+)".join(re.escape(quote(literal, safe="/-._~!$&'()*+,;=:@%")) for literal in literals)
        self._patterns.append((re.compile(pattern), names, operations))

    def _operation(self, item: dict[str, Any], place: str, method: str) -> Operation:
        parameters: dict[tuple[str, str], Parameter] = {}
        for above, part in ((place, item), (f"{place}/{method}", item[method])):
            for index, given in enumerate(part.get("parameters", ())):
                found, where = self._at(given, f"{above}/parameters/{index}")
                if found["in"] == "header" and found["name"].lower() in ("accept", "content-type", "authorization"):
                    continue  # the specification: such a parameter counts for nothing
                parameters[found["in"], found["name"]] = self._parameter(found, where)
        media: dict[str, Schema | None] | None = None
        required = False
        if "requestBody" in item[method]:
            body, where = self._at(item[method]["requestBody"], f"{place}/{method}/requestBody")
            required = bool(body.get("required"))
            media = {
                name.partition(";")[0].strip().lower(): self._schema(f"{where}/content/{_step(name)}/schema")
                if "schema" in part else None
                for name, part in body.get("content", {}).items()
            }  # fmt: skip
        return Operation(tuple(parameters.values()), media, required)

    def _parameter(self, found: dict[str, Any], where: str) -> Parameter:
        if "schema" not in found:
            raise ValueError(f"The parameter '{found['name']}' has no `schema`.")
        schema, _ = self._at(found["schema"], f"{where}/schema")
        explode = found.get("explode", found["in"] in ("query", "cookie"))
        return parameter_of(
            found["in"], found["name"], bool(found.get("required")), schema, self._schema(f"{where}/schema"), explode
        )

    def _schema(self, pointer: str) -> Schema:
        return Schema({"$ref": f"{_NAME}#{quote(pointer, safe='/~')}"}, self._registry)

    def _at(self, part: Any, pointer: str) -> tuple[Any, str]:
        """Follows references within the document."""
        for _ in range(16):
            if not isinstance(part, dict) or "$ref" not in part:
                return part, pointer
            reference = str(part["$ref"])
            if not reference.startswith("#/"):
                raise ValueError(f"'{reference}' leads out of the document. Nothing is fetched: put it in.")
            pointer = unquote(reference[1:])
            part = self._whole
            for step in pointer.split("/")[1:]:
                step = step.replace("~1", "/").replace("~0", "~")
                if not isinstance(part, dict) or step not in part:
                    raise ValueError(f"'{reference}' leads nowhere.")
                part = part[step]
        raise ValueError(f"'{pointer}' leads in a circle.")


def _step(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


@lru_cache(maxsize=32)
def document(text: str, prefix: str) -> Document:
    """A setting is checked and then made: once is enough."""
    return Document(text, prefix)
