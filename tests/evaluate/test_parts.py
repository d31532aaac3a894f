"""The parts of an evaluation, apart: whose class a name is, what a folder holds, how counts and progress are kept."""

import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from utils.artefact.manifest import model_facts
from utils.checkpoints.loading import Checkpoint
from utils.errors import EvaluationError
from utils.evaluate.data import Data, match_classes, open_data
from utils.evaluate.results import Tally, compared, result_of, table
from utils.families.variants import get_variant
from utils.images.labels import Label, read_labels
from utils.predict.photographs import Photographs

IMAGENET = read_labels("imagenet1k", 1000)


def test_the_numbers_of_imagenet_1k_are_refused_for_a_model_of_21k():
    numbers = [str(number) for number in range(1000)]
    with pytest.raises(EvaluationError, match=r"ImageNet-1k's numbers, and this model has 21,843"):
        match_classes(numbers, read_labels("imagenet21k", 21843), 21843)
    assert match_classes(numbers, IMAGENET, 1000) == (list(range(1000)), "class index")


@pytest.mark.parametrize(
    ("names", "rule", "indices"),
    [
        (["n01440764", "n15075141"], "WordNet id", [0, 999]),
        (["n03126707", "n02012849"], "WordNet id", [517, 134]),  # the two cranes
        (["tabby", "tiger_cat", "Egyptian cat"], "class name", [281, 282, 285]),
        (["Tench, Tinca  tinca"], "class name", [0]),
        (["0", "999", "12"], "class index", [0, 999, 12]),  # as ImageNetV2 is distributed
        (["0000", "0281"], "class index", [0, 281]),
    ],
)
def test_names_are_matched_by_the_rule_that_fits_all(names, rule, indices):
    assert match_classes(names, IMAGENET, 1000) == (indices, rule)


def test_a_class_whose_name_is_a_number_goes_by_its_name():
    digits = [Label(f"digit{name}", name) for name in ("1", "0", "2")]
    assert match_classes(["0", "1", "2"], digits, 3) == ([1, 0, 2], "class name")


@pytest.mark.parametrize(
    ("names", "unknown"),
    [
        (["n01440764", "n99999999"], "n99999999"),
        (["n01440764", "n15075141", "0"], "'0'"),  # one rule for all
        (["tabby", "crane"], "crane"),  # which of them?
        (["tabby", "maillot"], "maillot"),
        (["0", "1000"], "1000"),
        (["0", "-1"], "-1"),
        (["0", "١"], "١"),  # a digit, but of another script
        (["train", "val"], "train"),
    ],
)
def test_a_name_that_is_no_class_is_named(names, unknown):
    with pytest.raises(EvaluationError, match=unknown) as caught:
        match_classes(names, IMAGENET, 1000)
    assert "n01440764" in str(caught.value)  # what is expected


@pytest.mark.parametrize(
    "trained",
    [["Cat", "cat"], ["tomato", "tomato, ripe"], ["a_b", "a b"], ["\u00e9", "e"], ["ß", "ss"], ["maillot", "x"]],
)
def test_the_very_names_of_the_labels_are_matched_whatever_else_is_like_them(trained):
    labels = [Label(f"class_{index}", name) for index, name in enumerate(trained)]
    for form in ("NFC", "NFD"):
        names = [unicodedata.normalize(form, name) for name in trained[::-1]]
        assert match_classes(names, labels, 2) == ([1, 0], "class name")


def test_without_labels_only_the_index_is_left():
    assert match_classes(["3", "7"], None, 10) == ([3, 7], "class index")
    with pytest.raises(EvaluationError, match="by index, from 0 to 9"):
        match_classes(["n01440764"], None, 10)


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name, format="PNG")


def test_a_folder_is_listed_in_order_and_from_any_position(tmp_path):
    fill(tmp_path, "2/b.JPEG", "10/a.png", "2/a.jpg", "10/deep.png/x.png")
    fill(tmp_path, "2/.hidden.png", ".cache/x.png", "10/.cache/x.png")
    (tmp_path / "2" / "notes.txt").write_text("no image")
    data = open_data(str(tmp_path), None, 11)
    listed = [("10/a.png", 10), ("10/deep.png/x.png", 10), ("2/a.jpg", 2), ("2/b.JPEG", 2)]
    assert (data.photographs.count, data.classes, data.rule) == (4, {10: "10", 2: "2"}, "class index")
    assert [(each.path, each.label) for each in data.photographs.since(0, 4)] == listed
    assert [(each.path, each.label) for each in data.photographs.since(2, 3)] == listed[2:3]
    assert next(data.photographs.since(2, 3)).read() == (tmp_path / "2" / "a.jpg").read_bytes()


def test_a_limit_spreads_over_the_classes(tmp_path):
    fill(tmp_path, *(f"{index}/{number}.png" for index in range(5) for number in range(4)))
    data = open_data(str(tmp_path), None, 5, limit=5)
    assert [example.label for example in data.photographs.since(0, 9)] == [0, 1, 2, 3, 4]
    assert data.photographs.count == 5
    assert open_data(str(tmp_path), None, 5, limit=99).photographs.count == 20


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: fill(folder, "1/c.png"),
        lambda folder: (folder / "0" / "a.png").rename(folder / "0" / "c.png"),
        lambda folder: (folder / "0" / "a.png").write_bytes(b"shorter"),
        lambda folder: (folder / "1").rename(folder / "2"),
    ],
)
def test_another_listing_has_another_hash(tmp_path, change):
    fill(tmp_path, "0/a.png", "1/b.png")
    before = open_data(str(tmp_path), None, 3).sha256
    assert open_data(str(tmp_path), None, 3).sha256 == before
    change(tmp_path)
    assert open_data(str(tmp_path), None, 3).sha256 != before


def test_other_files_of_the_same_names_and_sizes_are_another_state(tmp_path):
    fill(tmp_path, "0/a.png", "1/a.png")
    before = open_data(str(tmp_path), None, 3)
    assert open_data(str(tmp_path), None, 3).photographs.sha256 == before.photographs.sha256
    for name, other in (("0", "x"), ("1", "0"), ("x", "1")):
        (tmp_path / name).rename(tmp_path / other)
    after = open_data(str(tmp_path), None, 3)
    assert (after.sha256 == before.sha256, after.photographs.sha256 == before.photographs.sha256) == (True, False)


def test_of_a_split_folder_the_part_to_validate_with_is_evaluated_and_what_is_not_read_is_said(tmp_path):
    fill(tmp_path, *(f"{part}/{index}/a.png" for part in ("train", "val", "test") for index in (0, 1)))
    (tmp_path / "val" / "0" / "x.svg").write_text("<svg/>")
    data = open_data(str(tmp_path), None, 3)
    listed = [(each.path, each.label) for each in data.photographs.since(0, 9)]
    assert listed == [("val/0/a.png", 0), ("val/1/a.png", 1)]
    assert "1 .svg" in data.photographs.notice
    train = open_data(str(tmp_path), None, 3, split="train").photographs
    assert next(train.since(0, 1)).path == "train/0/a.png"
    with pytest.raises(EvaluationError, match="--split other"):
        open_data(str(tmp_path), None, 3, split="other")


@pytest.mark.parametrize(
    ("folder", "files", "message"),
    [
        (".", [], "no sub-folders"),
        (".", ["ILSVRC2012_val_00000001.JPEG"], "(?s)no sub-folders.*1 .jpeg"),
        (".", ["0/a.png", "train/b.png"], "'train'"),
        (".", ["0/a.png", "1/.hidden/b.png"], "holds no image"),
        ("No Where", [], "there is no such folder"),
    ],
)
def test_a_folder_of_another_shape_is_an_error(tmp_path, folder, files, message):
    fill(tmp_path, *files)
    with pytest.raises(EvaluationError, match=message):
        open_data(str(tmp_path / folder), None, 3)


def counted(*given):
    tally = Tally()
    for row in compared(*given):
        tally.add(row)
    return tally


def test_counts_are_those_of_a_worked_example():
    source = np.array(
        [[9, 8, 7, 6, 5, 4, 3], [0, 1, 2, 3, 4, 5, 6], [1, 0, 0, 0, 0, 0, 0.5], [7, 6, 5, 4, 3, 2, 1]], np.float32
    )
    logits = source.copy()
    logits[0, 5] = 5.5  # in the first five of one, not of the other
    logits[1, 0] = 8  # another first
    tally = counted([0, 0, 6, 6], logits, source)
    assert (tally.images, tally.top1, tally.top5) == (4, 2, 3)
    assert (tally.source_top1, tally.source_top5) == (1, 2)
    assert (tally.same_top1, tally.shared_top5) == (3, 4 + 4 + 5 + 5)
    assert tally.max_abs == 8
    assert tally.relative == pytest.approx(8 / 6)
    figures = tally.figures(True, 7)
    assert (figures["model"]["top1"], figures["model"]["top5"]) == (50, 75)
    assert (figures["source"]["top1"], figures["source"]["top5"]) == (25, 50)
    assert (figures["agreement"]["top1"], figures["agreement"]["top5"]) == (75, 90)


def test_of_equal_logits_the_lower_index_comes_first_and_fewer_than_five_classes_agree_wholly():
    tally = counted([0, 1, 5], np.zeros((3, 7), np.float32), None)
    assert (tally.top1, tally.top5) == (1, 2)
    logits = np.array([[0.0, 1.0]], np.float32)
    figures = counted([0], logits, logits).figures(True, 2)
    assert (figures["model"]["top1"], figures["model"]["top5"]) == (0, 100)
    assert figures["agreement"]["top5"] == 100


@pytest.mark.parametrize("side", ["the model", "the source framework"])
def test_logits_that_are_no_numbers_or_not_the_same_classes_are_refused(side):
    good, bad = np.zeros((2, 7), np.float32), np.zeros((2, 7), np.float32)
    for bad[1, 3] in (np.nan, np.inf):
        with pytest.raises(EvaluationError, match=side):
            counted([0, 0], *((bad, good) if side == "the model" else (good, bad)))
    with pytest.raises(EvaluationError, match="not the same model"):
        counted([0, 0], good, np.zeros((2, 10), np.float32))


def result(variant="convmixer_768_32", weights="official", images=50_000, source=None, preprocessing="pillow"):
    """A result without a model: 80.16 per cent of 50,000."""
    right = 40_080 * images // 50_000
    tally = Tally(images, right, images, images, images, images, 5 * images, by_class={0: [images, right, images]})
    row = get_variant(variant)
    manifest = {"name": f"{variant}_classification", "weights": weights, "source": {"sha256": "12" * 32}}
    manifest["model"] = model_facts(row, row.preprocessing)
    opened = SimpleNamespace(manifest=manifest, variant=row, units=1000)
    model = SimpleNamespace(opened=opened, sha256="ab" * 32)
    settings = {"batch_size": 32, "preprocessing": preprocessing, "versions": {}, "limit": None}
    data = Data("val", "folder", "WordNet id", {0: "tench"}, "cd" * 32, Photographs(images, "ef" * 32, None))
    return result_of(model, source, data, tally, settings)


def test_the_reported_accuracy_stands_beside_the_measured_one():
    found = result()
    assert found["reported"]["top1"] == 80.16
    assert found["figures"]["model"]["top1"] == pytest.approx(80.16)
    assert found["notes"] == []
    lines = table(found).splitlines()
    assert [line.split()[:3] for line in lines if line.startswith(("model", "reported"))] == [
        ["model", "80.16", "%"],
        ["reported", "80.16", "%"],
    ]
    assert "\nreported     none " in table(result("mixer_b32_sam"))  # nobody confirmed one


def test_what_cannot_be_compared_is_said():
    assert "50,000 images of ImageNet's validation set" in result(images=100)["notes"][0]
    assert "prepared its images itself" in result(preprocessing="graph")["notes"][0]
    assert "SYNTHETIC" in result(weights="synthetic")["notes"][0]
    assert ["ASSUMED" in note for note in result(weights="custom")["notes"]] == [True, True]
    other = Checkpoint(None, "custom", None, "34" * 32)
    assert "another file" in result(source=other)["notes"][0]
    assert result(source=Checkpoint(None, "official", None, "12" * 32))["notes"] == []
