"""Zip files of labelled photographs: what they hold, and what is refused."""

import os
import zipfile
from collections import namedtuple

import numpy as np
import pytest
from labelled import folder_of
from server import folder_server

from utils.errors import ParameterError
from utils.images import zipped
from utils.images.zipped import Unpacked
from utils.training.datasets import load_dataset

Usage = namedtuple("Usage", "total used free")


def packed(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return str(path)


def images_of(folder, classes):
    """Members of a zip file by name, of images of the classes."""
    folder_of(folder, classes)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


@pytest.fixture
def images(tmp_path):
    return images_of(tmp_path / "images", {"cat": 5, "dog": 5})


@pytest.mark.parametrize("wrap", ["", "my photos/", "a/b/", "my photos\\"], ids=["bare", "wrapped", "twice", "Windows"])
def test_a_zip_file_is_the_same_data_as_its_folder(tmp_path, images, wrap):
    others = (f"{wrap}.DS_Store", f"{wrap}notes.txt", f"{wrap}cat/a.mov", "__MACOSX/cat/._0.png")
    members = {f"{wrap}{name}": data for name, data in images.items()} | dict.fromkeys(others, b"x")
    path = packed(tmp_path / "pets.zip", members)
    found, expected = load_dataset(path, 0), load_dataset(str(tmp_path / "images"), 0)
    assert (found.name, found.classes) == ("pets", ("cat", "dog"))
    assert found.fingerprint == expected.fingerprint
    np.testing.assert_array_equal(found.train.read(0), expected.train.read(0))
    assert "1 .mov" in found.notice


def test_an_address_is_fetched_and_nothing_of_it_stays(tmp_path, images, monkeypatch):
    packed(tmp_path / "pets.zip", images)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(zipped.tempfile, "tempdir", str(tmp_path / "temporary"))
    with folder_server(tmp_path) as address:
        found = load_dataset(f"{address}/pets.zip?download=1", 0)
        assert len(found.train) == 8
        with pytest.raises(ParameterError, match=r"none\.zip could not be fetched: 404"):
            load_dataset(f"{address}/none.zip", 0)
    del found
    assert os.listdir(tmp_path / "temporary") == []


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"cat/0.png": b"\0" * (100 << 20)}, "unpacks to 104,857,600 bytes"),
        ({"../cat/0.png": b""}, "leads outside"),
        ({"/cat/0.png": b""}, "leads outside"),
        ({"cat\\..\\..\\0.png": b""}, "leads outside"),
        ({"cat/0.png": b"", "cat\\0.png": b""}, "are the same"),
        ({"cat": b"", "cat/0.png": b""}, "cannot be read or unpacked"),
        ({}, "no images"),
        ({"inner.zip": b"PK"}, "1 .zip"),
    ],
    ids=["bomb", "climbs", "absolute", "climbs in Windows", "twice", "file and folder", "empty", "zip within"],
)
def test_a_hostile_zip_file_is_refused_and_named(tmp_path, members, said):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(ParameterError, match=said) as caught:
        load_dataset(str(tmp_path / "bad.zip"), 0)
    assert str(tmp_path / "bad.zip") in str(caught.value)


def test_what_is_no_zip_file_or_does_not_fit_is_refused_before_it_is_unpacked(tmp_path, images, monkeypatch):
    (tmp_path / "text.zip").write_text("no zip file")
    with pytest.raises(ParameterError, match=r"text\.zip"):
        Unpacked(str(tmp_path / "text.zip"))
    with pytest.raises(ParameterError, match=r"none\.zip"):
        Unpacked(str(tmp_path / "none.zip"))
    path = packed(tmp_path / "pets.zip", images)
    monkeypatch.setattr(zipped.shutil, "disk_usage", lambda _: Usage(9, 9, 9))
    with pytest.raises(ParameterError, match="more than the 9"):
        Unpacked(path)
