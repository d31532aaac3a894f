"""Evaluation on a folder made of the photographs, whose right answers are known by how it was made.

PyTorch or Flax, on images that Pillow prepared, ranks the classes of every image; the file is then put into the folder
of the class at a chosen rank. How many are right, and among the first five, follows.
"""

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import artefacts
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from labelled import store_tfds
from PIL import Image

from utils.errors import EvaluationError
from utils.evaluate import command, data as evaluation_data, run as running
from utils.evaluate.source import find_checkpoint
from utils.export.signatures import image_signatures
from utils.families.variants import get_variant
from utils.files import hash_file
from utils.images.labels import Label
from utils.images.photographs import load_image, pillow_preprocess
from utils.predict.answers import Parts
from utils.predict.command import predict

ROOT = Path(__file__).resolve().parents[2]
RANKS = (0, 4, 1, 0, 6, 2, 5, 0, 3, 0, 6, 1, 0)  # of the right class, by image: 5 first, 10 among the first five
TOP1, TOP5 = 100 * 5 / 13, 100 * 10 / 13
# Ten of ImageNet's classes: two cranes of one name, and no order of the alphabet.
LABELS = [
    ("n04266014", "space shuttle"),
    ("n02012849", "crane"),
    ("n07930864", "cup"),
    ("n03126707", "crane"),
    ("n02124075", "Egyptian cat"),
    ("n02123045", "tabby, tabby cat"),
    ("n04008634", "projectile, missile"),
    ("n07920052", "espresso"),
    ("n02123159", "tiger cat"),
    ("n02971356", "carton"),
]
CHECKPOINTS = {
    "convmixer_tiny": tiny.GOLDEN / "convmixer_tiny.timm.pth.tar",
    "mixer_tiny": tiny.GOLDEN / "mixer_tiny.npz",
}
SOURCE = ("--checkpoint", str(CHECKPOINTS["convmixer_tiny"]))


def reference(name):
    """The source framework's logits for float32 [B, 48, 48, 3], from the golden checkpoint."""
    if name == "mixer_tiny":
        return tiny.mixer(operations="plain")[1]
    from utils.families.convmixer.source import as_nhwc

    return as_nhwc(tiny.source(name))


def prepared(paths, name):
    return np.stack([pillow_preprocess(load_image(path), get_variant(name).preprocessing) for path in paths])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Thirteen parts of the photographs, of different sizes and formats."""
    folder = tmp_path_factory.mktemp("photographs")
    sources = [Image.open(path) for path in sorted((ROOT / "assets" / "images").glob("*.jpg"))]
    paths = []
    for number in range(len(RANKS)):
        left, top, width, height = 11 * number, 7 * number, 90 + 14 * number, 190 - 8 * number
        part = sources[number % 3].crop((left, top, left + width, top + height))
        paths.append(folder / f"part{number:02}{('.JPEG', '.png', '.jpg')[number % 3]}")
        (part.convert("L") if number == 4 else part).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def answers(photographs):
    """The right class of each photograph, by model."""

    @functools.cache
    def get(name):
        logits = reference(name)(prepared(photographs, name))
        return [int(np.argsort(-row)[rank]) for row, rank in zip(logits, RANKS, strict=True)]

    return get


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """An artefact's folder, as if converted from the golden checkpoint; with labels where they are asked for."""

    @functools.cache
    def get(name="convmixer_tiny", head="classification", weights="custom", labels=False, in_graph=None):
        operations = "plain" if name == "mixer_tiny" else "xla"
        signatures = in_graph and image_signatures(in_graph)
        folder = artefacts.publish(tmp_path_factory.mktemp("models"), name, head, operations, signatures).folder
        path = folder / "assets.extra" / "manifest.json"
        manifest = json.loads(path.read_text()) | {"weights": weights}
        manifest["source"]["sha256"] = hash_file(CHECKPOINTS[name])
        if weights == "synthetic":
            manifest["name"] += "_synthetic"
        if labels:
            (folder / "assets.extra" / "labels.tsv").write_text("".join(f"{i}\t{n}\n" for i, n in LABELS))
            manifest["files"]["assets.extra/labels.tsv"] = hash_file(folder / "assets.extra" / "labels.tsv")
        path.write_text(json.dumps(manifest))
        return folder

    return get


@pytest.fixture
def folder(tmp_path, photographs, answers):
    """Makes the folder of class folders for a model; `naming` gives a class's folder its name."""

    def make(name="convmixer_tiny", naming=str):
        root = tmp_path / "val"
        for path, index in zip(photographs, answers(name), strict=True):
            (root / naming(index)).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / naming(index))
        return root

    return make


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Runs the command: the result and what was printed; or, where it fails, what was said."""
    monkeypatch.setattr(running, "PART", 4)

    def call(model, data, *options, output="result.json"):
        arguments = ["--model", str(model), "--data", str(data), "--output", str(tmp_path / output), *options]
        capsys.readouterr()
        if command.main(["--batch-size", "4", *arguments]) != 0:
            return capsys.readouterr().err
        result = json.loads((tmp_path / output).read_text())
        return result, capsys.readouterr().out

    return call


def assert_by_construction(figures):
    assert figures["top1"] == pytest.approx(TOP1)
    assert figures["top5"] == pytest.approx(TOP5)
    assert figures["standard_error"] == pytest.approx(100 * np.sqrt(5 / 13 * 8 / 13 / 13))


@pytest.mark.parametrize(("name", "rule"), [("mixer_tiny", "class index"), tiny.slow("convmixer_tiny", "WordNet id")])
def test_figures_are_those_that_the_folder_was_made_to_give(run, model_of, folder, name, rule):
    by_id = rule == "WordNet id"
    data = folder(name, (lambda index: LABELS[index][0]) if by_id else "{:04}".format)
    result, printed = run(model_of(name, labels=by_id), data, "--checkpoint", str(CHECKPOINTS[name]))
    assert (result["images"], result["data"]["matched_by"]) == (13, rule)
    assert_by_construction(result["figures"]["model"])
    assert_by_construction(result["figures"]["source"])
    agreement = result["figures"]["agreement"]
    assert (agreement["top1"], agreement["top5"]) == (100, 100)
    assert 0 <= agreement["relative"] < 1e-5  # equal arithmetic, in another order
    assert result["source"]["framework"] == ("JAX" if name == "mixer_tiny" else "PyTorch")
    assert result["source"]["converted_from_it"] is True
    assert "38.46 %" in printed
    assert "76.92 %" in printed


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.slow
def test_the_graphs_own_preprocessing_is_what_is_measured_when_asked_for(run, model_of, folder, right):
    settings = get_variant("convmixer_tiny").preprocessing
    model = model_of(in_graph=settings if right else replace(settings, mean=(0.0, 0.0, 0.0)))
    result, printed = run(model, folder(), *SOURCE, "--preprocessing", "graph")
    assert_by_construction(result["figures"]["source"])  # which gets Pillow's in any case
    # A level of 255 here and there, against another brightness altogether.
    assert (result["figures"]["agreement"]["relative"] < 1e-2) == right
    assert "prepared its images itself" in printed


@pytest.mark.slow
def test_another_checkpoint_shows_in_the_agreement_and_is_said(run, model_of, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MIXERS_CACHE", str(tmp_path / "cache"))
    result, printed = run(model_of(), folder(), "--checkpoint", "synthetic")
    assert_by_construction(result["figures"]["model"])
    assert result["figures"]["agreement"]["top1"] < 100
    assert result["figures"]["agreement"]["relative"] > 1e-2
    assert result["source"]["converted_from_it"] is False
    assert "another file than the one" in printed


def by_class_of(answers):
    """Images, and those among the first and the first five, of each right class."""
    found = {}
    for index, rank in zip(answers, RANKS, strict=True):
        counts = found.setdefault(index, [0, 0, 0])
        found[index] = [counts[0] + 1, counts[1] + (rank == 0), counts[2] + (rank < 5)]
    return found


def test_answers_that_are_there_give_the_figures_of_an_evaluation(run, model_of, folder, answers, tmp_path):
    model, data, table = model_of(), folder(), str(tmp_path / "answers.parquet")
    predict(str(model), [str(data)], table, batch_size=4)
    whole, _ = run(model, data)
    found, _ = run(model, data, "--answers", table)
    for result in (whole, found):
        by_class = {each["index"]: [each["images"], each["top1"], each["top5"]] for each in result["by_class"]}
        assert by_class == by_class_of(answers("convmixer_tiny"))
    assert {**found, "settings": 0, "notes": 0} == {**whole, "settings": 0, "notes": 0}
    assert "answers that were there" in found["notes"][0]
    assert "another model" in run(model_of(weights="synthetic"), data, "--answers", table)
    assert "--checkpoint needs a model" in run(model, data, "--answers", table, *SOURCE)
    first, *_ = sorted(data.rglob("*.*"))
    first.rename(first.with_name("renamed.png"))
    assert "is not in" in run(model, data, "--answers", table)
    predict(str(model), [str(data)], table, top_k=3, overwrite=True)
    assert "--top-k 5" in run(model, data, "--answers", table)
    odd = pq.read_table(table)
    nulls = pa.array([None] * odd.num_rows, odd.schema.field("classes").type)
    pq.write_table(odd.set_column(1, odd.schema.field("classes"), nulls), tmp_path / "odd.parquet")
    assert "too few classes" in run(model, data, "--answers", str(tmp_path / "odd.parquet"))
    (tmp_path / "other.parquet").write_bytes(b"PAR1 and nothing")
    assert "cannot be read" in run(model, data, "--answers", str(tmp_path / "other.parquet"))


def stop_after(monkeypatch, parts):
    """The program ends when that many parts, of four images, have been written."""
    write, count = Parts.write, iter(range(1, parts))

    def stopping(self, part, rows):
        write(self, part, rows)
        if next(count, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(Parts, "write", stopping)


def test_a_stopped_evaluation_goes_on_to_identical_figures(run, model_of, folder, tmp_path, monkeypatch):
    model, data = model_of(), folder()
    whole, _ = run(model, data, *SOURCE, output="whole.json")
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert "Interrupted" in run(model, data, *SOURCE)
    assert len(list((tmp_path / "result.json.parts").glob("*.parquet"))) == 1
    assert not (tmp_path / "result.json").exists()

    seen = []
    read = evaluation_data._read
    monkeypatch.setattr(evaluation_data, "_read", lambda path: seen.append(path) or read(path))
    assert run(model, data, *SOURCE)[0] == whole
    assert len(seen) == 13 - 4  # not from the start again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "val", "whole.json"]


def test_parts_of_other_settings_are_refused(run, model_of, folder, monkeypatch):
    data = folder()
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        run(model_of(), data)
    shutil.copy(next(data.rglob("*.png")), next(data.iterdir()) / "added.png")
    said = run(model_of(weights="synthetic"), data, "--batch-size", "2", *SOURCE)
    for change in ("model", "checkpoint", "list of photographs", "number of images", "batch_size"):
        assert change in said


def test_corrupt_files_are_named_and_refused_or_left_out_and_counted(run, model_of, folder):
    data = folder()
    names = sorted(path.relative_to(data).as_posix() for path in data.rglob("*.*"))
    broken = names[5:7]  # the second batch
    for name in broken:
        (data / name).write_bytes((data / name).read_bytes()[:300])
    said = run(model_of(), data)
    assert "2 of 13 files" in said
    assert all(f"{name}: image {name} cannot be decoded" in said for name in broken)

    result, printed = run(model_of(), data, "--skip-corrupt")  # from the answers that are there
    left = [RANKS[int(Path(name).stem.removeprefix("part"))] for name in names if name not in broken]
    assert sorted(result["corrupt"]) == sorted(broken)
    assert result["images"] == 11
    assert result["figures"]["model"]["top1"] == pytest.approx(100 * left.count(0) / 11)
    assert result["figures"]["model"]["top5"] == pytest.approx(100 * sum(rank < 5 for rank in left) / 11)
    assert "2 corrupt files were left out" in printed


def test_only_corrupt_files_are_no_evaluation(run, model_of, tmp_path):
    (tmp_path / "val" / "0").mkdir(parents=True)
    (tmp_path / "val" / "0" / "page.jpg").write_text("<html>Not Found</html>")
    assert "not one of 1 files" in run(model_of(), tmp_path / "val", "--skip-corrupt")


def test_a_file_that_vanishes_is_no_corrupt_one(run, model_of, folder, monkeypatch):
    data, opened = folder(), evaluation_data.open_data

    def opened_and_lost(*given):
        found = opened(*given)
        min(data.rglob("*.*")).unlink()
        return found

    monkeypatch.setattr(evaluation_data, "open_data", opened_and_lost)
    assert "cannot be read now" in run(model_of(), data, "--skip-corrupt")


def test_what_cannot_be_evaluated_is_refused(run, model_of, folder, tmp_path):
    data, unlike = folder(), shutil.copytree(model_of(), tmp_path / "unlike")
    path = unlike / "assets.extra" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["signatures"]["serving_default"]["outputs"]["logits"]["shape"] = [None, 9]
    path.write_text(json.dumps(manifest))
    assert "feature extractor" in run(model_of(head="fe"), data)
    assert "serving_default is" in run(unlike, data)
    assert "no signature serving_image" in run(model_of(), data, "--preprocessing", "graph")
    (tmp_path / "result.json").write_text('{"name": "a manifest"}')
    assert "no evaluation's result" in run(model_of(), data)
    assert json.loads((tmp_path / "result.json").read_text()) == {"name": "a manifest"}
    with pytest.raises(EvaluationError, match="was fine-tuned here"):
        find_checkpoint(SimpleNamespace(manifest={"training": {}}, name="tuned"), "official")
    own = SimpleNamespace(manifest={}, folder="mine", name="mine", variant=SimpleNamespace(name="own"))
    record = SimpleNamespace(manifest={"training": None}, folder=None, name="mine", weights="custom")
    with pytest.raises(EvaluationError, match="does not record"):
        find_checkpoint(record, "official")
    with pytest.raises(EvaluationError, match="path of that file"):
        find_checkpoint(own, "official")


@pytest.fixture(scope="module")
def data_set(tmp_path_factory, photographs, answers):
    """The photographs as a data set of TensorFlow Datasets on the disk; its classes are in an order of their own."""
    folder, ids = tmp_path_factory.mktemp("tfds"), sorted(wordnet_id for wordnet_id, _ in LABELS)
    labels = [LABELS[index][0] for index in answers("convmixer_tiny")]
    examples = list(zip(map(str, photographs), labels, strict=True))
    store_tfds(folder, "tiny_images", "1.0.0", ids, {"train": examples[:1], "test": examples})
    return "tiny_images", "--data-dir", str(folder)


@pytest.mark.slow
def test_a_tensorflow_data_set_gives_the_same_figures_and_can_be_stopped(run, model_of, data_set, monkeypatch):
    model = model_of(labels=True)
    whole, _ = run(model, *data_set)
    assert (whole["data"]["name"], whole["data"]["matched_by"]) == ("tiny_images/1.0.0 test", "WordNet id")
    assert whole["images"] == 13
    assert_by_construction(whole["figures"]["model"])
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        run(model, *data_set, output="stopped.json")
    assert run(model, *data_set, output="stopped.json")[0] == whole


def test_split_and_limit_of_a_tensorflow_data_set_take_effect_and_what_is_not_there_is_an_error(data_set):
    name, _, folder = data_set

    def opened(name, **options):
        return evaluation_data.open_data(name, [Label(*label) for label in LABELS], 10, data_dir=folder, **options)

    found = opened(name, split="train")
    assert (found.name, found.photographs.count) == ("tiny_images/1.0.0 train", 1)
    assert len(list(opened(name, limit=6).photographs.since(2, 9))) == 4
    with pytest.raises(EvaluationError, match="has the splits train, test"):
        opened(name, split="validation")
    with pytest.raises(EvaluationError, match="cannot provide it"):
        opened("no_such_data_set_at_all")
