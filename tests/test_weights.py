"""Weights out again: the checkpoint that went in, and what its framework computes with what comes out."""

import json
import sys
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import artefacts
import extractors
import labelled
import manifests
import numpy as np
import pytest
import tiny
from safetensors import safe_open
from snippets import snippets

from utils import weights
from utils.artefact.opening import open_model
from utils.artefact.staging import Staging
from utils.checkpoints.loading import Checkpoint, Wanted, load
from utils.errors import PackagingError, ParameterError
from utils.export import saved_model
from utils.families import FAMILIES
from utils.families.base import COUNTER
from utils.families.variants import get_variant
from utils.parity.judge import OUTPUT_TOLERANCE
from utils.training.classifier import classifier
from utils.training.head import fit_head

ENDING = {"convmixer_tiny": ".safetensors", "mixer_tiny": ".npz"}


def read(path):
    """By NumPy or the library of the format, and by nothing of this project."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    with safe_open(path, framework="np") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def written(model, folder):
    """The file that the command makes of a model."""
    path = folder / f"out{ENDING[open_model(str(model)).manifest['variant']]}"
    assert weights.main([str(model), "--output", str(path)]) == 0
    return path


def golden(variant):
    """What upstream's file holds, but for counters, which come out as 0."""
    arrays = tiny.mixer_weights() if variant == "mixer_tiny" else tiny.weights(variant)
    return {key: np.zeros((), np.int64) if key.endswith(COUNTER) else array for key, array in arrays.items()}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for key, array in expected.items():
        assert (found[key].dtype, found[key].shape, found[key].tobytes()) == (array.dtype, array.shape, array.tobytes())


def tuned(kind, folder):
    """A fine-tuned model of three classes, every weight and statistic moved: the steps of fine-tuning but training."""
    extractor, rng = open_model(str(extractors.published(kind).folder)), np.random.default_rng(0)
    before = saved_model.Candidate(saved_model.load_model(extractor.folder)).variables()
    arrays = {key: array * rng.uniform(0.9, 1.1, array.shape).astype(np.float32) for key, array in before.items()}
    head = fit_head(rng.normal(size=(1, 30, 32)).astype(np.float32), np.arange(30) % 3, np.ones(3), 0)
    arrays |= zip(FAMILIES[extractor.variant.family].head_keys, (head.kernel, head.bias), strict=True)
    with Staging(folder, f"{extractor.variant.name}_classification_flowers") as staging:
        saved_model.save_model(classifier(extractor, arrays), staging.model_dir)
        facts = {
            "name": f"{extractor.variant.name}_classification_flowers",
            "variant": extractor.variant,
            "training": manifests.TRAINING,
        }
        facts["signatures"] = saved_model.describe_signatures(saved_model.load_model(staging.unpacked_candidate()))
        published = staging.publish(manifests.manifest(staging.files, **facts))
    return SimpleNamespace(folder=published.folder, arrays=arrays)


def trained(kind, folder):
    """The same by a whole run of the notebook's, with BatchNorm by the batch."""
    run = labelled.built(kind, labelled.coloured_images(), folder, epochs=1, batch_norm="batch")
    run.learning.train()
    run.save()
    run.compare()
    return SimpleNamespace(folder=run.publish().folder, arrays=run.learning.trainable.arrays())


@pytest.mark.parametrize("variant", ENDING)
def test_a_converted_checkpoint_comes_out_bit_for_bit(variant, tmp_path):
    if variant == "mixer_tiny":
        folder = artefacts.publish(tmp_path, variant, operations="plain").folder
    else:
        folder = extractors.published("classifier").folder
    assert_same(read(written(folder, tmp_path)), golden(variant))


@pytest.mark.parametrize("kind", ["convmixer", "xla", tiny.slow("plain")])
def test_of_an_extractor_comes_out_all_but_the_head(kind, tmp_path):
    variant = extractors.KINDS[kind][0]
    expected = golden(variant)
    for key in FAMILIES[get_variant(variant).family].head_keys:
        del expected[key]
    assert_same(read(written(extractors.published(kind).folder, tmp_path)), expected)


@pytest.mark.parametrize("kind", ["convmixer native", tiny.slow("mixer native")])
def test_a_keras_file_and_the_tarball_give_the_arrays_of_the_saved_model(kind, tmp_path):
    folder = extractors.published(kind).folder
    expected = read(written(folder, tmp_path))
    for ending in (".keras", ".tar.gz"):
        path = tmp_path / f"again{ENDING[extractors.KINDS[kind][0]]}"
        weights.weights_out(f"{folder}{ending}", str(path), overwrite=True)
        assert_same(read(path), expected)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (tuned, "convmixer"),
        (tuned, "plain"),
        tiny.slow(tuned, "xla"),
        tiny.slow(trained, "convmixer"),
        tiny.slow(trained, "plain"),
    ],
)
def test_the_source_computes_with_a_fine_tuned_model_s_file_what_tensorflow_does(make, kind, tmp_path):
    model, row = make(kind, tmp_path), get_variant(extractors.KINDS[kind][0])
    path, family = written(model.folder, tmp_path), FAMILIES[row.family]
    kernel = model.arrays[family.head_keys[0]]
    found = read(path)
    np.testing.assert_array_equal(found[family.head_keys[0]], kernel.T if row.family == "convmixer" else kernel)
    assert all((found[key] == array).all() for key, array in model.arrays.items() if array.ndim == 1)
    loaded = load(Checkpoint(path, "custom", None, ""), Wanted(variant=row))
    assert loaded.variant.architecture == replace(row.architecture, classes=3)
    assert loaded.notes == ()
    source = family.models.build(loaded.variant.architecture, loaded.arrays, "classification")
    inputs = np.random.default_rng(1).normal(size=(4, 48, 48, 3)).astype(np.float32)
    expected = saved_model.as_function(saved_model.load_model(model.folder))(inputs)
    assert expected.shape == (4, 3)
    assert tiny.relative_error(source.outputs(inputs, "float32")["logits"], expected) < OUTPUT_TOLERANCE


@pytest.mark.parametrize(("kind", "index"), [("classifier", 0), ("plain", 1)])
def test_the_page_s_lines_load_the_file_into_the_source(kind, index, tmp_path, monkeypatch):
    import torch
    from flax.traverse_util import flatten_dict

    from utils.families.convmixer.source import ConvMixer

    def create_model(name, num_classes):
        """Stands for timm's, whose model has the same names."""
        return ConvMixer(replace(tiny.architecture("convmixer_tiny"), classes=num_classes))

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    monkeypatch.chdir(tmp_path)
    names = ("convmixer.safetensors", "mixer.npz")
    path = written(extractors.published(kind).folder, tmp_path).rename(names[index])
    exec(snippets("fine-tuning.md", "Back to PyTorch or JAX")[index], found := {})  # noqa: S102
    loaded = found["model"].state_dict() if kind == "classifier" else flatten_dict(found["params"], sep="/")
    assert_same({key: np.asarray(torch.as_tensor(value)) for key, value in loaded.items()}, read(path))


@pytest.mark.parametrize("kind", ["synthetic", "plain"])
def test_the_file_says_what_it_was_made_from_and_has_the_same_bytes_again(kind, tmp_path, capsys):
    published = extractors.published(kind)
    path = written(published.folder, tmp_path)
    said, manifest = capsys.readouterr().out, open_model(str(published.folder)).manifest
    if path.suffix == ".npz":
        told = zipfile.ZipFile(path).comment
    else:
        with safe_open(path, framework="np") as file:
            told = file.metadata()["mixers"]
    told = json.loads(told)
    assert told["files"] == manifest["files"]
    assert (told["name"], told["variant"], told["weights"]) == (
        manifest["name"],
        extractors.KINDS[kind][0],
        kind_of(kind),
    )
    assert said.startswith("SYNTHETIC WEIGHTS") == (kind == "synthetic")
    assert ("7 of them count batches" in said) == (path.suffix == ".safetensors")
    first = path.read_bytes()
    weights.weights_out(str(published.folder), str(path), overwrite=True)
    assert path.read_bytes() == first


def kind_of(kind):
    return "synthetic" if kind == "synthetic" else "custom"


@pytest.mark.parametrize(
    ("name", "said"), [("out.npz", r"name it \*\.safetensors"), ("there.safetensors", "--overwrite")]
)
def test_another_ending_and_a_file_that_is_there_are_refused(name, said, tmp_path):
    (tmp_path / "there.safetensors").write_text("mine")
    with pytest.raises(ParameterError, match=said):
        weights.weights_out(str(extractors.published("convmixer").folder), str(tmp_path / name))
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("there.safetensors", "mine")]


def test_a_file_that_cannot_be_finished_is_not_there(tmp_path, monkeypatch):
    def full(file, arrays, comment):
        file.write(b"begun")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "write_safetensors", full)
    with pytest.raises(PackagingError, match="No space left"):
        weights.weights_out(str(extractors.published("convmixer").folder), str(tmp_path / "out.safetensors"))
    assert list(tmp_path.iterdir()) == []


def test_variables_that_the_manifest_does_not_tell_of_are_named(monkeypatch):
    opened = open_model(str(extractors.published("plain").folder))
    found = weights._variables(opened)
    changed = dict(found, extra=found["stem/bias"], **{"stem/kernel": found["stem/kernel"].transpose(3, 2, 1, 0)})
    del changed["pre_head_layer_norm/bias"]
    monkeypatch.setattr(weights, "_variables", lambda _: changed)
    said = r"missing pre_head_layer_norm/bias; unexpected extra; stem/kernel: expected float32 \[8, 8, 3, 32\], found"
    with pytest.raises(PackagingError, match=said):
        weights.weights_of(opened)


def test_a_family_that_does_not_tell_the_axes_of_its_variables_is_refused(monkeypatch):
    monkeypatch.setitem(FAMILIES, "convmixer", replace(FAMILIES["convmixer"], formats=()))
    with pytest.raises(ParameterError, match="does not tell the axes"):
        weights.weights_of(open_model(str(extractors.published("convmixer").folder)))
