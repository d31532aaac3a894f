"""The lists of releases in parts: nothing has two sums, and no artefact brings a list's."""

import json
from pathlib import Path

import pytest

from utils.errors import PackagingError
from utils.release.lists import merge_releases

ALL = json.loads((Path(__file__).parents[1] / "data" / "releases.json").read_text("utf-8"))["artefacts"]


@pytest.mark.parametrize("name", ["SHA256SUMS", next(iter(ALL[0]["files"]))])
def test_a_file_that_two_list_or_that_is_a_list_is_refused(tmp_path, name):
    for part, entry in zip("ab", ALL, strict=False):
        (tmp_path / part).mkdir()
        files = entry["files"] | ({name: "ab" * 32} if part == "b" else {})
        (tmp_path / part / "index.json").write_text(json.dumps({"artefacts": [entry | {"files": files}]}))
    with pytest.raises(PackagingError, match=f"{name} stands in more than one"):
        merge_releases([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert not (tmp_path / "all").exists()
