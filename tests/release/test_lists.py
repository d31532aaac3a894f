"""The lists of releases in parts: nothing has two sums, and no artefact brings a list's."""

import contextlib
import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from utils.errors import PackagingError
from utils.release.lists import merge_releases, table

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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, len(ALL) - 1), st.sampled_from([*ALL[0]]), JSON), min_size=1, max_size=3))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_an_index_makes_its_lists_or_is_refused(tmp_path_factory, changes):
    folder, entries = tmp_path_factory.mktemp("index", numbered=True), copy.deepcopy(ALL)
    for place, field, value in changes:
        entries[place][field] = value
    (folder / "index.json").write_text(json.dumps({"artefacts": entries}))
    with contextlib.suppress(PackagingError):
        table(merge_releases([folder], folder / "all"))
