"""Class names: whole, in the classifiers' order, and refused when they do not fit."""

import pytest

from utils.errors import PackagingError, ParameterError
from utils.images.labels import Label, class_labels, read_labels, write_labels


@pytest.mark.parametrize(
    ("labels", "classes", "known"),
    [
        # The positions that every ImageNet-1k classifier in use agrees on.
        (
            "imagenet1k",
            1000,
            {
                0: ("n01440764", "tench"),
                281: ("n02123045", "tabby"),
                285: ("n02124075", "Egyptian cat"),
                812: ("n04266014", "space shuttle"),
                967: ("n07920052", "espresso"),
                999: ("n15075141", "toilet tissue"),
            },
        ),
        ("imagenet21k", 21_843, {}),
    ],
)
def test_labels_are_as_many_as_the_classifier_has_outputs_and_in_its_order(labels, classes, known):
    found = read_labels(labels, classes)
    assert len(found) == classes
    assert all(label.wordnet_id[0] == "n" and label.wordnet_id[1:].isdigit() for label in found)
    assert all(label.name.strip() == label.name != "" for label in found)
    assert len({label.wordnet_id for label in found}) == classes
    for index, (wordnet_id, name) in known.items():
        assert found[index].wordnet_id == wordnet_id
        assert found[index].name.startswith(name)


def test_imagenet21k_is_in_the_order_of_wordnet_ids_as_imagenet1k_is():
    for labels in ("imagenet1k", "imagenet21k"):
        ids = [label.wordnet_id for label in read_labels(labels)]
        assert ids == sorted(ids), labels


def test_written_labels_are_read_back_from_the_model_folder(tmp_path):
    path = write_labels(read_labels("imagenet1k"), 1000, tmp_path)
    assert path == tmp_path / "assets.extra" / "labels.tsv"
    assert read_labels(path, 1000) == read_labels("imagenet1k")
    assert read_labels(path)[0] == Label("n01440764", read_labels("imagenet1k")[0].name)


def test_labels_of_one_s_own_keep_their_order(tmp_path):
    own = [Label("class_0", "zebra"), Label("class_1", "ant"), Label("a", "bee")]
    assert read_labels(write_labels(own, 3, tmp_path), 3) == own


def test_labels_of_another_classifier_are_refused_with_both_counts(tmp_path):
    for refused in (lambda: read_labels("imagenet1k", 21_843), lambda: write_labels([], 21_843, tmp_path)):
        with pytest.raises(PackagingError, match=r"classes.*; the model has 21,843"):
            refused()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", ["no tab", "\tno id", "n00000001\t", "a\tb\tc", ""])
def test_malformed_line_is_named(tmp_path, line):
    path = tmp_path / "labels.tsv"
    path.write_text(f"n00000001\tfirst\n{line}\nn00000003\tthird\n", encoding="utf-8")
    with pytest.raises(PackagingError, match=r"labels\.tsv, line 2"):
        read_labels(path)


def test_missing_file_and_unreadable_bytes_are_named(tmp_path):
    with pytest.raises(PackagingError, match=r"absent\.tsv"):
        read_labels(tmp_path / "absent.tsv")
    (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PackagingError, match=r"binary\.tsv"):
        read_labels(tmp_path / "binary.tsv")
    with pytest.raises(PackagingError, match=r"cifar10"):
        read_labels("cifar10")


# --- a user's own file


def test_class_names_are_read_with_and_without_ids(tmp_path):
    path = tmp_path / "own.txt"
    path.write_bytes("\ufeffcat\r\nn1\tgreat  dog\r\na\x85b\tœuf\r\n".encode())
    assert class_labels(path, None, 3) == [Label("class_0", "cat"), Label("n1", "great dog"), Label("a b", "œuf")]
    assert read_labels(write_labels(class_labels(path, None, 3), 3, tmp_path))[2] == Label("a b", "œuf")
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
        (b"cat\ndog\n", "names 2 classes, a line each, and the checkpoint has 3"),
        (b"cat\ndog\nant\nbee\n", "names 4 classes, a line each, and the checkpoint has 3"),
    ],
    ids=["missing", "latin", "blank line", "three columns", "empty", "too few", "too many"],
)
def test_bad_file_of_class_names_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "own.txt").write_bytes(content)
    with pytest.raises(ParameterError, match=message):
        class_labels(tmp_path / "own.txt", "imagenet1k", 3)
