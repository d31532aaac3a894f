"""Folders of labelled photographs: classes, parts, links, and what is not read."""

import os

import pytest
from PIL import Image

from utils.errors import ParameterError
from utils.images.folders import read_folder


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name, format="PNG")
    return folder


def found(folder):
    """Relative paths, by part and class."""
    parts = read_folder(folder).parts
    return {
        part: {name: [path.relative_to(folder).as_posix() for path in paths] for name, paths in classes.items()}
        for part, classes in parts.items()
    }


@pytest.mark.parametrize("names", [("train", "val"), ("Train", "valid"), ("training", "validation")])
def test_folders_of_parts_are_parts(tmp_path, names):
    first, second = names
    fill(tmp_path, f"{first}/cat/0.png", f"{first}/dog/0.png", f"{second}/cat/1.png", "__MACOSX/cat/._0.png")
    assert found(tmp_path) == {
        "train": {"cat": [f"{first}/cat/0.png"], "dog": [f"{first}/dog/0.png"]},
        "validation": {"cat": [f"{second}/cat/1.png"]},
    }


def test_what_lies_beside_the_parts_is_named(tmp_path):
    fill(tmp_path, "train/cat/0.png", "test/cat/0.png", "masks/cat/0.png")
    assert list(found(tmp_path)) == ["test", "train"]
    assert "masks" in read_folder(tmp_path).notice


@pytest.mark.parametrize("names", [("cat/0.png", "test/1.png"), ("bus/0.png", "train/0.png"), ("train/0.png",)])
def test_a_class_may_be_called_as_a_part_is(tmp_path, names):
    fill(tmp_path, *names)
    assert found(tmp_path) == {"": {name.split("/")[0]: [name] for name in names}}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["train/0.png", "test/0.png"], "no folders of classes"),
        (["train/a/0.png", "val/a/0.png", "valid/a/0.png"], "one part twice"),
        (["cat/train/0.png", "cat/val/1.png", "dog/train/0.png"], "outside"),
        ([" /0.png", "a/0.png"], "blank"),
        (["a\x1b[31m/0.png", "b/0.png"], r"x1b\[31m"),
        (["a b/0.png", "a  b/0.png"], "two folders are called 'a b'"),
        (["\u00e9/0.png", "e\u0301/0.png"], "two folders are called"),
    ],
)
def test_what_could_be_taken_for_something_else_is_refused(tmp_path, names, said):
    with pytest.raises(ParameterError, match=said) as caught:
        read_folder(fill(tmp_path, *names))
    assert str(caught.value).isprintable()


def test_a_folder_s_name_that_is_no_utf_8_is_refused(tmp_path):
    os.makedirs(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(ParameterError, match=r"caf\\udce9"):
        read_folder(tmp_path)


def test_links_are_followed_and_nothing_is_read_twice(tmp_path):
    store = fill(tmp_path / "store", "x.png", "deep/y.png")
    data = fill(tmp_path / "data", "cat/0.png")
    (data / "cat" / "more").symlink_to(store)
    (data / "cat" / "again").symlink_to(store)
    (store / "deep" / "round").symlink_to(data / "cat")
    (data / "dog").symlink_to(fill(tmp_path / "dogs", "0.png"))
    (data / "dog" / "gone.png").symlink_to(tmp_path / "nothing")
    assert found(data) == {"": {"cat": ["cat/0.png", "cat/again/deep/y.png", "cat/again/x.png"], "dog": ["dog/0.png"]}}
    assert read_folder(data).left_out == {"folders that were read already": 2, "broken links or devices": 1}


def test_litter_and_other_files_are_left_out_and_counted(tmp_path):
    fill(tmp_path, "cat/0.png", "cat/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "cat/.cache/1.png", "__MACOSX/cat/0.png")
    fill(tmp_path, "cat/._0.png", "beside.jpg")
    for name in ("a.svg", "b.SVG", "notes"):
        (tmp_path / "cat" / name).write_bytes(b"no photograph")
    assert found(tmp_path) == {"": {"cat": ["cat/0.png"]}}
    labelled = read_folder(tmp_path)
    assert labelled.left_out == {
        ".svg": 2, "without an ending": 1, "hidden": 1, "@eaDir": 1, ".cache": 1, "__MACOSX": 1,
        ".jpg in no folder of a class": 1,
    }  # fmt: skip
    assert "8 files" in labelled.notice
    assert "2 .svg" in labelled.notice


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads all")
def test_a_folder_that_cannot_be_read_is_an_error(tmp_path):
    fill(tmp_path, "cat/0.png", "cat/closed/1.png")
    (tmp_path / "cat" / "closed").chmod(0)
    with pytest.raises(ParameterError, match="closed"):
        read_folder(tmp_path)
