"""Labelled images from scikit-learn, TensorFlow Datasets and folders: split by seed, refused when they are wrong."""

import numpy as np
import pytest
from labelled import folder_of
from PIL import Image

from utils.errors import ParameterError
from utils.training import datasets


def test_digits_are_all_there_in_colour_and_in_full_range():
    images = datasets.load_dataset("digits", 32, seed=0)
    assert images.classes == tuple("0123456789")
    assert len(images.train) + len(images.validation) == 1797
    first = images.train.read(0)
    assert (first.shape, first.dtype) == ((8, 8, 3), np.uint8)
    assert max(images.train.read(i).max() for i in range(20)) == 255
    assert not images.augmentation.flip  # a mirrored 2 is no 2


def test_the_split_is_of_every_class_and_fixed_by_the_seed():
    one, same, other = (datasets.load_dataset("digits", 32, seed) for seed in (3, 3, 4))
    counts = np.bincount(one.validation.labels)
    everything = counts + np.bincount(one.train.labels)
    assert np.all(np.abs(counts - everything / 5) <= 0.5)
    np.testing.assert_array_equal(one.train.labels, same.train.labels)
    np.testing.assert_array_equal(one.train.read(7), same.train.read(7))
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_no_image_is_both_trained_on_and_validated_with():
    images = datasets.load_dataset("digits", 32, seed=0)
    train = {images.train.read(i).tobytes() for i in range(len(images.train))}
    validation = {images.validation.read(i).tobytes() for i in range(len(images.validation))}
    assert not train & validation


def test_a_folder_s_classes_are_its_sub_folders_and_images_are_read_upright_in_any_mode(tmp_path):
    folder_of(tmp_path, {"tulip": 5, "daisy": 5, ".hidden": 3})
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    Image.new("RGB", (30, 20), "red").save(tmp_path / "daisy" / "turned.jpg", exif=exif)
    Image.new("L", (30, 20), 128).save(tmp_path / "tulip" / "grey.PNG")
    (tmp_path / "tulip" / "notes.txt").write_text("no image")
    (tmp_path / "tulip" / "._grey.PNG").write_bytes(b"what macOS leaves in archives")
    images = datasets.load_dataset(str(tmp_path), 2, seed=0)
    assert images.classes == ("daisy", "tulip")
    assert len(images.train) + len(images.validation) == 12
    parts = (images.train, images.validation)
    shapes = sorted(part.read(i).shape for part in parts for i in range(len(part)))
    assert shapes == [(20, 30, 3)] * 11 + [(30, 20, 3)]
    assert images.augmentation == datasets.STANDARD


def test_labels_follow_the_folder_that_an_image_is_in(tmp_path):
    for name, colour in (("a", 10), ("b", 200)):
        (tmp_path / name).mkdir()
        for index in range(4):
            Image.new("RGB", (8, 8), (colour, colour, colour)).save(tmp_path / name / f"{index}.png")
    images = datasets.load_dataset(str(tmp_path), 2, seed=0)
    for part in (images.train, images.validation):
        for index, label in enumerate(part.labels):
            assert part.read(index)[0, 0, 0] == (10, 200)[label]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ({}, "no images in it. Expected one sub-folder per class"),
        ({"empty": 0, "void": 0}, "no images in it.*found 2 sub-folders"),
        ({"only": 4}, r"has one class only \(only\)"),
        ({"many": 4, "one": 1, "none": 0}, r"Too few in: none \(0\), one \(1\)"),
        ({"a": 3, "b": 3}, "4 images to train on are fewer than batch_size = 8"),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_refused(tmp_path, classes, said):
    with pytest.raises(ParameterError, match=f"(?s){said}"):
        datasets.load_dataset(str(folder_of(tmp_path, classes)), 8, seed=0)


@pytest.fixture
def with_corrupt_files(tmp_path):
    folder_of(tmp_path, {"a": 10, "b": 10})
    whole = (tmp_path / "a" / "000.png").read_bytes()
    (tmp_path / "a" / "005.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b" / "003.png").write_bytes(b"")
    return tmp_path


def test_corrupt_images_are_named_and_refused(with_corrupt_files):
    with pytest.raises(ParameterError, match=r"2 of 20 files cannot be decoded: a/005\.png; b/003\.png\. .*skip"):
        datasets.load_dataset(str(with_corrupt_files), 4, seed=0)


def test_corrupt_images_are_skipped_and_counted_when_asked(with_corrupt_files):
    images = datasets.load_dataset(str(with_corrupt_files), 4, seed=0, corrupt_images="skip")
    assert images.skipped == ("a/005.png", "b/003.png")
    assert len(images.train) + len(images.validation) == 18
    for part in (images.train, images.validation):
        for index in range(len(part)):
            assert part.read(index).shape == (20, 30, 3)


def test_more_labels_than_class_names_are_refused():
    with pytest.raises(ParameterError, match="labels up to 2, but only 2 class names"):
        datasets._assembled("x", ("a", "b"), lambda i: i, np.array([0, 1, 2, 0]), 0, datasets.STANDARD)


@pytest.fixture
def tfds_flowers(tmp_path, monkeypatch):
    """A small `tf_flowers` in TensorFlow Datasets' own format, prepared where the library looks for it."""
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(0)
    names = ["dandelion", "daisy", "tulips", "sunflowers", "roses"]
    builder = tfds.builder("tf_flowers", data_dir=tmp_path)
    examples = [(rng.integers(0, 256, (12 + i, 20, 3), np.uint8), i % 5) for i in range(25)]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tf_flowers",
        version=str(builder.version),
        features=tfds.features.FeaturesDict(
            {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(names=names)}
        ),
        split_datasets={
            "train": [(key, {"image": image, "label": label}) for key, (image, label) in enumerate(examples)]
        },
        data_dir=tmp_path,
        disable_shuffling=True,
    )
    make = tfds.builder
    monkeypatch.setattr(tfds, "builder", lambda name: make(name, data_dir=tmp_path))
    return names


def test_tf_flowers_is_read_from_tensorflow_datasets(tfds_flowers):
    images = datasets.load_dataset("tf_flowers", 4, seed=0)
    assert images.classes == tuple(tfds_flowers)
    assert (len(images.train), len(images.validation)) == (20, 5)
    heights = sorted(part.read(i).shape[0] for part in (images.train, images.validation) for i in range(len(part)))
    assert heights == list(range(12, 37))


def test_a_download_that_fails_says_what_to_use_instead(monkeypatch, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    def unreachable(name):
        raise OSError("no route to host")

    monkeypatch.setattr(tfds, "builder", unreachable)
    with pytest.raises(ParameterError, match=r'no route to host.*use dataset = "digits"'):
        datasets.load_dataset("tf_flowers", 4, seed=0)
