"""The model of a notebook whose `model` is "auto": the newest, the published one, or a tiny one made on the spot."""

import os
import shutil
import subprocess
from unittest.mock import Mock

import extractors
import pytest
from server import folder_server

from utils.errors import ConversionError
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


def test_else_a_tiny_one_is_converted_and_said_to_recognise_nothing(tmp_path, monkeypatch):
    ran = Mock(return_value=subprocess.CompletedProcess([], 0, "", ""))
    monkeypatch.setattr(module.subprocess, "run", ran)
    found = at_hand("auto", "fe", str(tmp_path), "exports", release=NOWHERE)
    assert found.model.endswith(os.path.join("exports", "convmixer_tiny_fe_synthetic"))
    assert "SYNTHETIC WEIGHTS" in found.notice
    assert "could not be fetched" in found.notice
    assert ran.call_args.args[0][1:5] == ["-m", "utils.convert", "--variant", "convmixer_tiny"]
    ran.return_value = subprocess.CompletedProcess([], 1, "", "error: no space is left")
    with pytest.raises(ConversionError, match=r"could not be converted: error: no space is left Give the path"):
        at_hand("auto", "fe", str(tmp_path), release=NOWHERE)
