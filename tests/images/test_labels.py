"""Class names: whole, in the classifiers' order, and refused when they do not fit."""

import os

import pytest

from utils.errors import PackagingError, ParameterError
from utils.images.labels import Label, class_labels, own_labels, read_labels, write_labels

# The positions that every ImageNet-1k classifier in use agrees on.
KNOWN = {
    0: ("n01440764", "tench"),
    281: ("n02123045", "tabby"),
    285: ("n02124075", "Egyptian cat"),
    812: ("n04266014", "space shuttle"),
    999: ("n15075141", "toilet tissue"),
}


@pytest.mark.parametrize(("labels", "classes", "known"), [("imagenet1k", 1000, KNOWN), ("imagenet21k", 21_843, {})])
def test_labels_are_as_many_as_the_classifier_has_outputs_and_in_its_order(labels, classes, known):
    found = read_labels(labels, classes)
    ids = [label.wordnet_id for label in found]
    assert ids == sorted(set(ids))  # as both classifiers have them
    assert all(label.name.strip() == label.name != "" for label in found)
    for index, (wordnet_id, name) in known.items():
        assert found[index].wordnet_id == wordnet_id
        assert found[index].name.startswith(name)
    with pytest.raises(PackagingError, match=f"{classes:,} classes; the model has 7"):
        read_labels(labels, 7)


def test_written_labels_are_read_back_in_their_order(tmp_path):
    own = [Label("class_0", "zebra"), Label("class_1", "ant"), Label("a", "bee")]
    path = write_labels(own, tmp_path)
    assert path == tmp_path / "assets.extra" / "labels.tsv"
    assert read_labels(path, 3) == own


@pytest.mark.parametrize("line", [b"no tab", b"\tno id", b"n00000001\t", b"a\tb\tc", b"", b"\xff\xfe\x00"])
def test_a_malformed_or_missing_file_is_named(tmp_path, line):
    path = tmp_path / "labels.tsv"
    with pytest.raises(PackagingError, match=r"labels\.tsv"):
        read_labels(path)
    path.write_bytes(b"n00000001\tfirst\n" + line + b"\nn00000003\tthird\n")
    with pytest.raises(PackagingError, match=r"labels\.tsv"):
        read_labels(path)


def test_a_user_s_class_names_are_read_with_and_without_ids(tmp_path):
    path = tmp_path / "own.txt"
    path.write_bytes("\ufeffcat\r\nn1\tgreat  dog\r\na\x85b\tœuf\r\n".encode())
    found = class_labels(path, None, 3)
    assert found == [Label("class_0", "cat"), Label("n1", "great dog"), Label("a b", "œuf")]
    assert read_labels(write_labels(found, tmp_path)) == found
    assert class_labels("", None, 3) is None
    assert len(class_labels("", "imagenet1k", 1000)) == 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "labels is '.*own.txt', which cannot be read: No such file"),
        (b"cat\n\xff\xfe\n", "not UTF-8"),
        (b"cat\n\ndog\n", "line 2"),
        (b"a\tb\tc\n", "line 1"),
        (b"", "line 1"),
        (b"cat\ndog\n", "2 classes, .* has 3"),
        (b"cat\ndog\nant\nbee\n", "4 classes, .* has 3"),
    ],
    ids=["missing", "latin", "blank line", "three columns", "empty", "too few", "too many"],
)
def test_bad_file_of_class_names_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "own.txt").write_bytes(content)
    with pytest.raises(ParameterError, match=message):
        class_labels(tmp_path / "own.txt", "imagenet1k", 3)


def test_labels_that_never_end_are_refused_unread(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 30)
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path / "large"):
        with pytest.raises(ParameterError, match="no plain file"):
            own_labels(path)
