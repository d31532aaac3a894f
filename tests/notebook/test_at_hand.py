"""The model of a notebook whose `model` is "auto": the newest, the published one, or one made on the spot."""

import json
import os
import shutil
from contextlib import nullcontext
from unittest.mock import Mock

import extractors
import pytest
from server import folder_server

from utils.errors import CheckpointUnavailable, ConversionError
from utils.notebook import at_hand as module
from utils.notebook.at_hand import at_hand

NOWHERE = "http://127.0.0.1:9"  # nothing answers there


def put(kind, folder, written):
    """The published tiny model of a kind, copied; its manifest `written` then, in seconds."""
    published = extractors.published(kind)
    shutil.copytree(published.folder.parent, folder, dirs_exist_ok=True)
    os.utime(folder / published.manifest.name, (written, written))
    return folder / published.folder.name


@pytest.mark.slow
def test_the_newest_of_the_head_is_taken_from_all_folders_and_broken_ones_do_not_count(tmp_path):
    assert at_hand("a, b", "fe", str(tmp_path)) == ("a, b", "")  # named ones are taken as they are
    one, other = tmp_path / "one", tmp_path / "other"
    put("convmixer", one, 2000)
    newest = put("xla", other, 3000)
    put("classifier", other, 4000)
    (one / "predictions.json").write_text("{}")
    found = at_hand("auto", "fe", str(one), str(other))
    assert found.model == str(newest)
    assert "mixer_tiny_fe, the newest in other" in found.notice
    shutil.rmtree(newest)
    assert at_hand("auto", "fe", str(one), str(other)).model == f"{newest}.tar.gz"
    (other / "mixer_tiny_fe.tar.gz").unlink()  # what is left is a manifest alone
    assert at_hand("auto", "fe", str(one), str(other)).model == str(one / "convmixer_tiny_fe")


def test_else_the_published_one_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    release = tmp_path / "release"
    release.mkdir()
    shutil.copy(extractors.published("convmixer").tarball, release / "convmixer_768_32_fe.tar.gz")
    with folder_server(release) as address:
        found = at_hand("auto", "fe", str(tmp_path / "exports"), release=address)
    assert found.model == f"{address}/convmixer_768_32_fe.tar.gz"
    assert "the published one was fetched" in found.notice


@pytest.fixture
def converted(monkeypatch):
    """Notes the variant and checkpoint of each conversion in place of converting."""
    asked = []
    monkeypatch.setattr(module, "_converted", lambda *given: asked.append(given[:3]) or given[3] / given[0])
    return asked


def test_else_the_official_checkpoint_is_converted(tmp_path, monkeypatch, converted):
    monkeypatch.setattr(module, "fetch", Mock())
    put("convmixer", tmp_path, 2000)
    (manifest,) = tmp_path.glob("*.json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"weights": "synthetic"}))
    found = at_hand("auto", "fe", str(tmp_path), release=NOWHERE)
    assert converted == [("convmixer_768_32", "fe", "official")]
    assert "SYNTHETIC" not in found.notice


def test_else_random_weights_are_taken_and_said_to_recognise_nothing(tmp_path, monkeypatch, converted):
    monkeypatch.setattr(module, "fetch", Mock(side_effect=CheckpointUnavailable("no network")))
    found = at_hand("auto", "fe", str(tmp_path), "exports", release=NOWHERE)
    assert converted == [("convmixer_tiny", "fe", "synthetic")]
    assert "SYNTHETIC WEIGHTS" in found.notice
    assert "make convert CHECKPOINT=official HEAD=fe" in found.notice
    there = put("synthetic", tmp_path, 2000)
    assert at_hand("auto", "classification", str(tmp_path), release=NOWHERE).model == str(there)
    assert len(converted) == 1


@pytest.mark.parametrize(("code", "status"), [("print('cell 1 of 2')", 0), ("raise SystemExit('error: disk full')", 1)])
def test_a_conversion_on_the_spot_ends_as_the_command_ends(code, status, tmp_path, monkeypatch):
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "convert.py").write_text(code)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    with pytest.raises(ConversionError, match="disk full") if status else nullcontext():
        made = module._converted("mixer_tiny", "fe", "synthetic", tmp_path)
        assert made == tmp_path / "mixer_tiny_fe_synthetic"
