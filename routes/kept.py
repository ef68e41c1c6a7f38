"""The last good document, on the disk of each node: what a worker starts from when PostgreSQL is away, and what the
recorder probes by.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def kept_path(data_dir: Path) -> Path:
    return data_dir / "config" / "live.json"


def keep(data_dir: Path, document: Mapping[str, Any], number: int, digest: str) -> None:
    """Raises OSError."""
    path = kept_path(data_dir)
    temporary = path.with_suffix(f".{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.touch(mode=0o600)  # plugins' configs hold secrets
    temporary.write_text(json.dumps({"number": number, "digest": digest, "document": document}))
    temporary.replace(path)


def kept(data_dir: Path) -> tuple[Mapping[str, Any], int, str]:
    """(document, number, digest). Raises OSError, and ValueError or KeyError for a file that is none of ours."""
    found = json.loads(kept_path(data_dir).read_text())
    if not isinstance(found, dict) or not isinstance(found.get("document"), dict):
        raise ValueError("There is no document in it.")
    return found["document"], found["number"], found["digest"]
