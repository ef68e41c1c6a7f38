"""Packages that only some plugins need, and that are installed by whoever wants those: extras of `pyproject.toml`."""

from __future__ import annotations

import importlib.util

#: By the module that must be there: what installs it.
EXTRAS = {"aiokafka": "aiokafka[lz4,snappy,zstd]>=0.14,<0.15", "jq": "jq>=1.11,<2"}


def check(module: str, who: str) -> None:
    """Raises ValueError that says what to install. Loads nothing."""
    if importlib.util.find_spec(module) is None:
        raise ValueError(
            f"{who} needs the package {module}, which is not installed here. On every node, in the gateway's "
            f"environment: pip install '{EXTRAS[module]}'."
        )
