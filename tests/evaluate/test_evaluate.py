"""Evaluation on a folder made of the photographs, whose right answers are known by how it was made.

PyTorch or Flax, on images that Pillow prepared step by step here, ranks the classes of every image; the file is then
put into the folder of the class at a chosen rank. How many are right, and among the first five, follows.
"""

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from utils.artefact.manifest import build_manifest
from utils.artefact.tarball import write_tarball
from utils.errors import EvaluationError
from utils.evaluate import batches as evaluation_batches
from utils.evaluate import command
from utils.evaluate import data as evaluation_data
from utils.evaluate import model as evaluation_model
from utils.evaluate.progress import Progress
from utils.export.image_signatures import image_signatures
from utils.export.saved_model import save_model
from utils.files import hash_file, hash_files
from utils.models.variants import get_variant

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
    "convmixer_tiny_relu": tiny.GOLDEN / "convmixer_tiny_relu.timm.pth.tar",
    "mixer_tiny": tiny.GOLDEN / "mixer_tiny.npz",
}


def reference(name):
    """The source framework's logits for float32 [B, 48, 48, 3], from the golden checkpoint."""
    if name.startswith("convmixer"):
        import torch

        model = tiny.source(name)
        return lambda inputs: model(torch.from_numpy(inputs.transpose(0, 3, 1, 2))).detach().numpy()
    return tiny.mixer(operations="plain")[1]


def prepared(path, name):
    """What torchvision's Resize, CenterCrop and Normalize make of a file, spelt out."""
    settings = get_variant(name).preprocessing
    image = Image.open(path).convert("RGB")
    width, height = image.size
    wide, high = (
        max(settings.resize, int(settings.resize * length / min(width, height))) for length in (width, height)
    )
    # Columns first: Pillow itself takes tall images the other way round since version 13.
    image = image.resize((wide, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(image.resize((wide, high), Image.Resampling.BICUBIC), np.float32)
    top, left = (round((length - settings.crop) / 2) for length in pixels.shape[:2])
    pixels = pixels[top : top + settings.crop, left : left + settings.crop]
    return (pixels - np.array(settings.mean, np.float32)) / np.array(settings.std, np.float32)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Thirteen parts of the photographs, of different sizes and formats."""
    folder = tmp_path_factory.mktemp("photographs")
    sources = [Image.open(path) for path in sorted((ROOT / "assets" / "images").glob("*.jpg"))]
    paths = []
    for number in range(len(RANKS)):
        source = sources[number % 3]
        width, height = 90 + 14 * number, 190 - 8 * number
        part = source.crop((11 * number, 7 * number, 11 * number + width, 7 * number + height))
        suffix = (".JPEG", ".png", ".jpg")[number % 3]
        paths.append(folder / f"part{number:02}{suffix}")
        (part.convert("L") if number == 4 else part).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def answers(photographs):
    """The right class of each photograph, by model."""

    @functools.cache
    def get(name):
        logits = reference(name)(np.stack([prepared(path, name) for path in photographs]))
        return [int(np.argsort(-row)[rank]) for row, rank in zip(logits, RANKS, strict=True)]

    return get


@pytest.fixture(scope="module")
def classifier(saved, tmp_path_factory):
    """A classifier's folder, as a conversion leaves it: SavedModel, manifest, and labels where they are asked for."""

    @functools.cache
    def get(name, weights="custom", labels=False, head="classification"):
        model = plain_mixer(tmp_path_factory) if name == "mixer_tiny" else saved(name, head)
        made = shutil.copytree(model, tmp_path_factory.mktemp("models") / f"{name}_{head}")
        finish(made, name, weights, labels, head)
        return made

    return get


def plain_mixer(tmp_path_factory):
    return save_model(tiny.mixer(operations="plain")[0], tmp_path_factory.mktemp("mixer") / "model")


def finish(folder, name, weights, labels, head):
    row = {"output": "logits", "input": "noise", "batch": 1, "max_abs": 0.0, "relative": 0.0, "rmse": 0.0}
    row |= {"top1": 1.0, "top5": 1.0, "tolerance": 1e-5, "passed": True}
    output = {"logits": {"dtype": "float32", "shape": [None, get_variant(name).architecture.classes]}}
    if head == "fe":
        output = {"features": {"dtype": "float32", "shape": [None, get_variant(name).architecture.dim]}}
    images = {"inputs": {"dtype": "float32", "shape": [None, None, None, 3]}}
    (folder / "assets.extra").mkdir()
    if labels:
        (folder / "assets.extra" / "labels.tsv").write_text("".join(f"{i}\t{n}\n" for i, n in LABELS))
    manifest = build_manifest(
        name=f"{name}_{head}" + ("_synthetic" if weights == "synthetic" else ""),
        variant=get_variant(name),
        head=head,
        weights=weights,
        source={"url": None, "path": None, "sha256": hash_file(CHECKPOINTS[name])},
        versions={"tensorflow": "2.21.0"},
        parameters=1,
        signatures={"serving_default": {"inputs": images, "outputs": output}},
        parity={"passed": True, "tolerance": {"logits": 1e-5}, "rows": [row]},
        seconds={"load": 0.0},
        peak_memory_mb=1.0,
        files=hash_files(folder),
    )
    (folder / "assets.extra" / "manifest.json").write_text(json.dumps(manifest))


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
def run(tmp_path):
    """Runs the command; the result, without its times, or None where it fails."""

    def call(model, data, *options, output="result.json"):
        arguments = ["--model", str(model), "--data", str(data), "--output", str(tmp_path / output), *options]
        if command.main(["--batch-size", "4", *arguments]) != 0:
            return None
        return untimed(json.loads((tmp_path / output).read_text()))

    return call


def untimed(result):
    return {key: value for key, value in result.items() if key != "seconds"}


def assert_by_construction(figures):
    assert figures["top1"] == pytest.approx(TOP1)
    assert figures["top5"] == pytest.approx(TOP5)
    assert figures["standard_error"] == pytest.approx(100 * np.sqrt(5 / 13 * 8 / 13 / 13))


@pytest.mark.parametrize(
    ("name", "rule"),
    [("convmixer_tiny", "WordNet id"), ("convmixer_tiny_relu", "class index"), ("mixer_tiny", "class index")],
)
def test_figures_are_those_that_the_folder_was_made_to_give(run, classifier, folder, name, rule, capsys):
    by_id = rule == "WordNet id"
    data = folder(name, (lambda index: LABELS[index][0]) if by_id else "{:04}".format)
    result = run(classifier(name, labels=by_id), data, "--checkpoint", str(CHECKPOINTS[name]))
    assert result["images"] == 13
    assert result["data"]["matched_by"] == rule
    assert_by_construction(result["figures"]["savedmodel"])
    assert_by_construction(result["figures"]["source"])
    agreement = result["figures"]["agreement"]
    assert (agreement["top1"], agreement["top5"]) == (100, 100)
    assert 0 <= agreement["relative"] < 1e-5  # equal arithmetic, in another order
    assert result["source"]["framework"] == ("Flax" if name == "mixer_tiny" else "PyTorch")
    assert result["source"]["converted_from_it"] is True
    printed = capsys.readouterr().out
    assert "38.46 %" in printed
    assert "76.92 %" in printed


@pytest.mark.parametrize("start", [0, 5])
def test_batches_hold_what_torchvision_makes_of_the_files_in_the_order_of_the_listing(folder, start):
    name, data = "convmixer_tiny", folder()
    opened = evaluation_data.open_data(str(data), None, 10)
    found = list(evaluation_batches.batches(opened, start, 4, get_variant(name).preprocessing, skip_corrupt=False))
    paths = [data / example.name for example in opened.examples(start)]
    assert [len(batch.labels) for batch in found] == ([4, 4, 4, 1] if start == 0 else [4, 4])
    assert np.concatenate([batch.labels for batch in found]).tolist() == [int(path.parent.name) for path in paths]
    inputs = np.concatenate([batch.inputs for batch in found])
    assert inputs.dtype == np.float32
    expected = np.stack([prepared(path, name) for path in paths])
    np.testing.assert_allclose(inputs, expected, rtol=0, atol=1e-5)  # pixels are equal; 1e-5 of a scale of 5


@pytest.mark.parametrize("right", [True, False])
def test_the_graphs_own_preprocessing_is_what_is_measured_when_asked_for(run, folder, tmp_path, right, capsys):
    name, data = "convmixer_tiny", folder()
    settings = get_variant(name).preprocessing
    in_graph = settings if right else replace(settings, mean=(0.0, 0.0, 0.0))
    model = save_model(tiny.exported(name), tmp_path / "model", image_signatures(in_graph))
    finish(model, name, "custom", labels=False, head="classification")
    result = run(model, data, "--checkpoint", str(CHECKPOINTS[name]), "--preprocessing", "graph")
    assert_by_construction(result["figures"]["source"])  # which gets Pillow's in any case
    # A level of 255 here and there, against another brightness altogether.
    assert (result["figures"]["agreement"]["relative"] < 1e-2) == right
    assert "prepared its images itself" in capsys.readouterr().out


def test_a_model_without_image_signatures_cannot_prepare_its_images(run, classifier, folder, capsys):
    assert run(classifier("convmixer_tiny"), folder(), "--preprocessing", "graph") is None
    assert "no signature serving_image" in capsys.readouterr().err


def test_another_checkpoint_shows_in_the_agreement_and_is_said(run, classifier, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MIXERS_CACHE", str(tmp_path / "cache"))
    result = run(classifier("convmixer_tiny"), folder(), "--checkpoint", "synthetic")
    assert_by_construction(result["figures"]["savedmodel"])
    assert result["figures"]["agreement"]["top1"] < 100
    assert result["figures"]["agreement"]["relative"] > 1e-2
    assert result["source"]["converted_from_it"] is False
    assert "another file than the one" in capsys.readouterr().out


def test_a_tarball_gives_what_its_folder_gives(run, classifier, folder, tmp_path):
    model, data = classifier("convmixer_tiny"), folder()
    tarball = write_tarball(model, tmp_path / "model.tar.gz")
    assert run(tarball, data, output="tarball.json") == run(model, data)


def test_synthetic_weights_are_said(run, classifier, folder, capsys):
    result = run(classifier("convmixer_tiny", weights="synthetic"), folder())
    assert result["evaluated"].endswith("_synthetic")
    assert "SYNTHETIC WEIGHTS" in capsys.readouterr().out


class Stopped(KeyboardInterrupt):
    """Stands for whatever ends the program."""


def stop_after(monkeypatch, saves):
    """Progress is saved once at the start and once a batch; the program ends at that many."""
    save, count = Progress.save, iter(range(saves))

    def stopping(self):
        save(self)
        if next(count, None) is None:
            raise Stopped

    monkeypatch.setattr(Progress, "save", stopping)


@pytest.mark.parametrize("batches", [1, 3])
def test_a_stopped_evaluation_goes_on_to_identical_figures(run, classifier, folder, tmp_path, monkeypatch, batches):
    model, data = classifier("convmixer_tiny"), folder()
    options = ("--checkpoint", str(CHECKPOINTS["convmixer_tiny"]))
    whole = run(model, data, *options, output="whole.json")
    with monkeypatch.context() as patch:
        stop_after(patch, batches)
        assert run(model, data, *options) is None
    saved = json.loads((tmp_path / "result.json.progress").read_text())
    assert saved["done"] == 4 * batches
    assert not (tmp_path / "result.json").exists()

    seen = []
    read = evaluation_data._read
    monkeypatch.setattr(evaluation_data, "_read", lambda path: seen.append(path) or read(path))
    assert run(model, data, *options) == whole
    assert len(seen) == 13 - 4 * batches  # not from the start again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "val", "whole.json"]


def test_a_stop_just_before_the_result_is_written_loses_nothing(run, classifier, folder, monkeypatch):
    model, data = classifier("convmixer_tiny"), folder()
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        assert run(model, data) is None
    assert_by_construction(run(model, data)["figures"]["savedmodel"])


@pytest.mark.parametrize("change", ["batch_size", "images", "checkpoint", "data", "model"])
def test_progress_of_other_settings_is_refused(run, classifier, folder, monkeypatch, capsys, change):
    model, data, options = classifier("convmixer_tiny"), folder(), []
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert run(model, data) is None
    if change == "data":
        shutil.copy(next(data.rglob("*.png")), next(data.iterdir()) / "added.png")
    elif change == "model":
        model = classifier("convmixer_tiny", weights="synthetic")
    else:
        given = {"batch_size": "2", "images": "5", "checkpoint": str(CHECKPOINTS["convmixer_tiny"])}
        option = {"batch_size": "--batch-size", "images": "--limit", "checkpoint": "--checkpoint"}
        options = [option[change], given[change]]
    capsys.readouterr()
    assert run(model, data, *options) is None
    message = capsys.readouterr().err
    assert f"  {change}: then" in message
    assert "Remove result.json.progress" in message


def test_corrupt_files_are_named_and_refused_or_left_out_and_counted(run, classifier, folder, answers, capsys):
    model, data = classifier("convmixer_tiny"), folder()
    names = sorted(path.relative_to(data).as_posix() for path in data.rglob("*.*"))
    broken = [names[5], names[6]]  # the second batch
    for name in broken:
        (data / name).write_bytes((data / name).read_bytes()[:300])
    assert run(model, data) is None
    message = capsys.readouterr().err
    assert all(name in message for name in broken)
    assert "--skip-corrupt" in message

    result = run(model, data, "--skip-corrupt")  # goes on where it was refused
    ranks = {f"part{number:02}": rank for number, rank in enumerate(RANKS)}
    left = [ranks[Path(name).stem] for name in names if name not in broken]
    assert sorted(result["corrupt"]) == sorted(broken)
    assert result["images"] == 11
    assert result["figures"]["savedmodel"]["top1"] == pytest.approx(100 * left.count(0) / 11)
    assert result["figures"]["savedmodel"]["top5"] == pytest.approx(100 * sum(rank < 5 for rank in left) / 11)
    assert "2 corrupt files were left out" in capsys.readouterr().out


def test_progress_that_left_out_corrupt_files_is_not_gone_on_from_without_saying_so(
    run, classifier, folder, monkeypatch, capsys
):
    model, data = classifier("convmixer_tiny"), folder()
    min(data.rglob("*.*")).write_bytes(b"no image")
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert run(model, data, "--skip-corrupt") is None
    capsys.readouterr()
    assert run(model, data) is None
    assert "left out 1 corrupt files so far" in capsys.readouterr().err
    assert run(model, data, "--skip-corrupt")["images"] == 12


def test_only_corrupt_files_are_no_evaluation(run, classifier, tmp_path, capsys):
    (tmp_path / "val" / "0").mkdir(parents=True)
    (tmp_path / "val" / "0" / "page.jpg").write_text("<html>Not Found</html>")
    assert run(classifier("convmixer_tiny"), tmp_path / "val", "--skip-corrupt") is None
    assert "not one of 1 files" in capsys.readouterr().err


def test_a_file_that_vanishes_is_no_corrupt_one(run, classifier, folder, monkeypatch, capsys):
    model, data = classifier("convmixer_tiny"), folder()
    opened = evaluation_data.open_data

    def opened_and_lost(*given):
        found = opened(*given)
        min(data.rglob("*.*")).unlink()
        return found

    monkeypatch.setattr(evaluation_data, "open_data", opened_and_lost)
    assert run(model, data, "--skip-corrupt") is None
    assert "cannot be read now" in capsys.readouterr().err


def test_a_file_that_is_no_result_is_not_overwritten(run, classifier, folder, tmp_path, capsys):
    (tmp_path / "result.json").write_text('{"name": "a manifest"}')
    assert run(classifier("convmixer_tiny"), folder()) is None
    assert "no evaluation's result" in capsys.readouterr().err
    assert json.loads((tmp_path / "result.json").read_text()) == {"name": "a manifest"}


def test_what_is_no_classifier_of_ours_is_refused(run, classifier, saved, folder, tmp_path, capsys):
    (tmp_path / "file.tar.gz").write_bytes(b"not a tarball")
    changed, unlike = (shutil.copytree(classifier("convmixer_tiny"), tmp_path / name) for name in ("changed", "unlike"))
    (changed / "fingerprint.pb").write_bytes(b"another")
    manifest = unlike / "assets.extra" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("[null, 10]", "[null, 9]"))
    for model, message in [
        (classifier("convmixer_tiny", head="fe"), "feature extractor"),
        (saved("convmixer_tiny"), "manifest.json"),
        (tmp_path / "file.tar.gz", "file.tar.gz"),
        (tmp_path / "nowhere", "no such file or folder"),
        (changed, "fingerprint.pb is not the file that was published"),
        (unlike, "gives 10 logits; its manifest says 9"),
    ]:
        assert run(model, folder()) is None
        assert message in capsys.readouterr().err


def test_source_of_a_fine_tuned_model_is_refused(classifier):
    manifest = json.loads((classifier("convmixer_tiny") / "assets.extra" / "manifest.json").read_text())
    tuned = evaluation_model.Classifier(manifest | {"training": {}}, *[None] * 7)
    with pytest.raises(EvaluationError, match="fine-tuned"):
        evaluation_model.find_checkpoint(tuned, "official")


@pytest.fixture(scope="module")
def prepared_dataset(tmp_path_factory, photographs, answers):
    """The photographs as a data set of TensorFlow Datasets on the disk; its classes are in an order of their own."""
    import tensorflow_datasets as tfds

    ids = sorted(wordnet_id for wordnet_id, _ in LABELS)

    class TinyImages(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # to be found by its files alone
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=ids)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(1), "test": self._generate_examples(13)}

        def _generate_examples(self, count):
            for number, (path, index) in enumerate(zip(photographs, answers("convmixer_tiny"), strict=True)):
                if number < count:
                    yield number, {"image": str(path), "label": LABELS[index][0]}

    folder = tmp_path_factory.mktemp("tfds")
    TinyImages(data_dir=folder).download_and_prepare()
    return folder


def test_a_tensorflow_data_set_gives_the_same_figures_and_can_be_stopped(
    run, classifier, prepared_dataset, monkeypatch
):
    model, options = classifier("convmixer_tiny", labels=True), ("--data-dir", str(prepared_dataset))
    whole = run(model, "tiny_images", *options)
    assert whole["data"]["name"] == "tiny_images/1.0.0 test"
    assert whole["data"]["matched_by"] == "WordNet id"
    assert whole["images"] == 13
    assert_by_construction(whole["figures"]["savedmodel"])
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert run(model, "tiny_images", *options, output="stopped.json") is None
    assert run(model, "tiny_images", *options, output="stopped.json") == whole


def test_split_and_limit_of_a_tensorflow_data_set_take_effect(run, classifier, prepared_dataset):
    model, options = classifier("convmixer_tiny", labels=True), ("--data-dir", str(prepared_dataset))
    result = run(model, "tiny_images", *options, "--split", "train")
    assert (result["data"]["name"], result["images"]) == ("tiny_images/1.0.0 train", 1)
    assert run(model, "tiny_images", *options, "--limit", "6", output="limited.json")["images"] == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["tiny_images", "--split", "validation"], "has the splits train, test"),
        (["no_such_data_set_at_all"], "cannot provide it"),
    ],
)
def test_an_unknown_data_set_or_split_is_an_error(run, classifier, prepared_dataset, options, message, capsys):
    model = classifier("convmixer_tiny", labels=True)
    assert run(model, *options, "--data-dir", str(prepared_dataset)) is None
    assert message in " ".join(capsys.readouterr().err.split())
