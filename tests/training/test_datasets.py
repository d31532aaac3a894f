"""Labelled images from scikit-learn, TensorFlow Datasets and folders: split by seed, refused when they are wrong."""

import logging
import re
import shutil
from unittest.mock import Mock

import numpy as np
import pytest
from labelled import folder_of, store_tfds
from PIL import Image

from utils.errors import ParameterError
from utils.training import datasets


def everything(images):
    """(image, label) of all, those to train on first."""
    return [(part.read(i), label) for part in (images.train, images.validation) for i, label in enumerate(part.labels)]


def test_digits_are_all_there_in_colour_and_in_full_range_and_none_is_in_both_parts():
    images = datasets.load_dataset("digits", seed=0)
    assert images.classes == tuple("0123456789")
    found = [image for image, _ in everything(images)]
    assert {(image.shape, image.dtype.name) for image in found} == {((8, 8, 3), "uint8")}
    assert max(image.max() for image in found) == 255
    count = len(images.train)
    assert len(found) == 1797
    assert not {image.tobytes() for image in found[:count]} & {image.tobytes() for image in found[count:]}
    assert not images.augmentation.flip  # a mirrored 2 is no 2


def test_the_split_is_of_every_class_and_fixed_by_the_seed():
    one, same, other = (datasets.load_dataset("digits", seed) for seed in (3, 3, 4))
    counts = np.bincount(one.validation.labels)
    assert np.all(np.abs(counts - (counts + np.bincount(one.train.labels)) / 5) <= 0.5)
    np.testing.assert_array_equal(one.train.labels, same.train.labels)
    np.testing.assert_array_equal(one.train.read(7), same.train.read(7))
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_a_folder_s_classes_are_its_sub_folders(tmp_path):
    folder_of(tmp_path, {"tulip": 5, "daisy": 5, ".hidden": 3})
    Image.new("L", (30, 20), 128).save(tmp_path / "tulip" / "grey.PNG")
    (tmp_path / "tulip" / "notes.txt").write_text("no image")
    (tmp_path / "tulip" / "._grey.PNG").write_bytes(b"what macOS leaves in archives")
    images = datasets.load_dataset(str(tmp_path), seed=0)
    assert images.classes == ("daisy", "tulip")
    found = everything(images)
    assert [image.shape for image, _ in found] == [(20, 30, 3)] * 11
    assert [label for image, label in found if np.all(image == 128)] == [1]  # the class whose folder it is in
    assert images.augmentation == datasets.STANDARD


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ({}, "no images in it"),
        ({"empty": 0, "void": 0}, "no images in it"),
        ({"only": 4}, "one class only"),
        ({"many": 4, "one": 1, "none": 0}, r"none \(0\), one \(1\)"),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_refused(tmp_path, classes, said):
    with pytest.raises(ParameterError, match=f"(?s){said}"):
        datasets.load_dataset(str(folder_of(tmp_path, classes)), seed=0)


def test_corrupt_images_are_named_and_refused_or_skipped_and_counted(tmp_path):
    folder_of(tmp_path, {"a": 10, "b": 10})
    whole = (tmp_path / "a" / "000.png").read_bytes()
    (tmp_path / "a" / "005.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b" / "003.png").write_bytes(b"")
    with pytest.raises(ParameterError, match=r"(?s)2 of 20 files cannot be decoded:.*a/005\.png.*b/003\.png.*skip"):
        datasets.load_dataset(str(tmp_path), seed=0)
    images = datasets.load_dataset(str(tmp_path), seed=0, corrupt_images="skip")
    assert images.skipped == ("a/005.png", "b/003.png")
    assert [image.shape for image, _ in everything(images)] == [(20, 30, 3)] * 18


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_whole_file_that_is_too_large_says_so(tmp_path, monkeypatch):
    folder_of(tmp_path, {"a": 4, "b": 4})
    Image.new("L", (300, 400)).save(tmp_path / "b" / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    with pytest.raises(ParameterError, match=r"large\.png has more than 100,000 pixels"):
        datasets.load_dataset(str(tmp_path), seed=0)


def test_a_split_is_used_as_it_is_and_named(tmp_path):
    for part, count in (("train", 6), ("val", 3), ("test", 2)):
        folder_of(tmp_path / part, {"cat": count, "dog": count})
    images = datasets.load_dataset(str(tmp_path), seed=0)
    assert images.classes == ("cat", "dog")
    assert (len(images.train), len(images.validation)) == (12, 6)
    expected = np.asarray(Image.open(tmp_path / "val" / "dog" / "002.png"))
    np.testing.assert_array_equal(images.validation.read(5), expected)
    assert "validated with validation; 4 images of test" in images.notice
    assert "6 images to validate with are copies" in images.notice  # they have the same random numbers
    shutil.rmtree(tmp_path / "val")
    assert len(datasets.load_dataset(str(tmp_path), seed=0).validation) == 4
    shutil.rmtree(tmp_path / "test")
    assert len(datasets.load_dataset(str(tmp_path), seed=0).validation) == 2


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"train": {"cat": 3, "dog": 3}, "val": {"cat": 3, "bird": 3}}, "bird, dog"),
        ({"train": {"cat": 3, "dog": 3}, "val": {"cat": 3, "dog": 0}}, "dog"),
        ({"val": {"cat": 3, "dog": 3}}, "no train"),
    ],
)
def test_parts_of_other_classes_are_refused(tmp_path, parts, said):
    for part, classes in parts.items():
        folder_of(tmp_path / part, classes)
    with pytest.raises(ParameterError, match=said):
        datasets.load_dataset(str(tmp_path), seed=0)


def test_other_pictures_under_the_same_names_are_another_data_set(tmp_path):
    folder_of(tmp_path, {"cat": 5, "dog": 5})
    before = datasets.load_dataset(str(tmp_path), seed=0).fingerprint
    assert datasets.load_dataset(str(tmp_path), seed=0).fingerprint == before
    for name, other in (("cat", "x"), ("dog", "cat"), ("x", "dog")):
        (tmp_path / name).rename(tmp_path / other)
    assert datasets.load_dataset(str(tmp_path), seed=0).fingerprint != before


def test_what_is_not_read_is_said(tmp_path):
    folder_of(tmp_path, {"cat": 5, "dog": 5})
    (tmp_path / "cat" / "x.svg").write_text("<svg/>")
    assert "1 .svg" in datasets.load_dataset(str(tmp_path), seed=0).notice


def test_tf_flowers_is_read_from_tensorflow_datasets(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    rng, make = np.random.default_rng(0), tfds.builder
    classes = ["dandelion", "daisy", "tulips", "sunflowers", "roses"]
    examples = [(rng.integers(0, 256, (12 + i, 20, 3), np.uint8), i % 5) for i in range(25)]
    store_tfds(tmp_path, "tf_flowers", str(make("tf_flowers").version), classes, {"train": examples})
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: make(name, data_dir=tmp_path))
    images = datasets.load_dataset("auto", seed=0)
    assert (images.name, images.notice) == ("tf_flowers", "")
    images = datasets.load_dataset("tf_flowers", seed=0)
    assert images.classes == tuple(classes)
    assert (len(images.train), len(images.validation)) == (20, 5)
    found = sorted((image.shape[0], label) for image, label in everything(images))
    assert found == [(12 + i, i % 5) for i in range(25)]


def test_a_download_that_fails_says_what_to_use_instead(monkeypatch):
    monkeypatch.setattr("tensorflow_datasets.builder", Mock(side_effect=OSError("no route to host")))
    with pytest.raises(ParameterError, match=r'no route to host.*use dataset = "digits"'):
        datasets.load_dataset("tf_flowers", seed=0)
    images = datasets.load_dataset("auto", seed=0)
    assert images.name == "digits"
    assert re.search("tf_flowers is not available: .*flower_photos.tgz does not answer", images.notice)
    monkeypatch.setattr(datasets, "is_within_reach", lambda *_: True)
    assert "no route to host" in datasets.load_dataset("auto", seed=0).notice
    assert datasets.load_dataset("digits", seed=0).notice == ""


def test_a_data_set_that_was_never_prepared_is_no_reason_to_warn(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(datasets, "_FLOWERS", "http://127.0.0.1:9/nothing")
    with caplog.at_level(logging.WARNING, logger="absl"):
        images = datasets.load_dataset("auto", seed=0)
    assert images.name == "digits"
    assert caplog.messages == []
