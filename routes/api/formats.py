"""YAML in and out, for routes and whole configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

import yaml
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer

from routes import portable
from routes.problems import CompileError


class YamlParser(BaseParser):
    media_type = "application/yaml"  # RFC 9512

    def parse(self, stream: IO[bytes], media_type: str | None = None, context: Any = None) -> Any:
        try:
            text = stream.read().decode()
            _refuse_aliases(text)
            return portable.from_yaml(text)
        except CompileError as error:
            raise ParseError(error.problems[0].message) from error
        except yaml.YAMLError as error:
            raise ParseError(f"This is not YAML: {error}") from error
        except UnicodeDecodeError:
            raise ParseError("This is not UTF-8.") from None
        except RecursionError:
            raise ParseError("This YAML is nested too deeply.") from None
        except ValueError as error:  # such as an impossible number
            raise ParseError(f"This is not YAML we can read: {error}") from error


class TextYamlParser(YamlParser):
    media_type = "text/yaml"


class XYamlParser(YamlParser):
    media_type = "application/x-yaml"


def _refuse_aliases(text: str) -> None:
    """A kilobyte of aliases of aliases stands for gigabytes."""
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.CSafeLoader)):
        raise ParseError("Aliases (`*name`) are not taken here: write it out.")


class YamlRenderer(BaseRenderer):
    media_type = "application/yaml"
    format = "yaml"
    charset = None

    def render(self, data: Any, accepted: str | None = None, context: Mapping[str, Any] | None = None) -> bytes:
        return portable.dump(data).encode() if data is not None else b""


YAML_PARSERS = (YamlParser, TextYamlParser, XYamlParser)
