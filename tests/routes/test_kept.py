from __future__ import annotations

from pathlib import Path

import pytest

from routes.kept import keep, kept, kept_path

DOCUMENT = {"format": 1, "routes": []}


def test_what_is_kept_comes_back_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    keep(tmp_path, DOCUMENT, 7, "digest")
    assert kept(tmp_path) == (DOCUMENT, 7, "digest")
    assert kept_path(tmp_path).stat().st_mode & 0o777 == 0o600
    keep(tmp_path, DOCUMENT, 8, "digest")
    assert kept(tmp_path)[1] == 8
    assert [path.name for path in kept_path(tmp_path).parent.iterdir()] == ["live.json"]


@pytest.mark.parametrize("text", ["[]", "{}", '{"document": 3}', "cut sho"])
def test_a_file_that_is_none_of_ours_is_refused(tmp_path: Path, text: str) -> None:
    kept_path(tmp_path).parent.mkdir()
    kept_path(tmp_path).write_text(text)
    with pytest.raises(ValueError):
        kept(tmp_path)
