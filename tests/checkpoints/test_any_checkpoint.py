"""Honest files of every kind load, and what must be known is said; hostile ones are refused, and run nothing."""

import argparse
import dataclasses
import json
import os
import pickle
import struct
import subprocess
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from own_checkpoints import custom, flax, of_classes, saved, state_dict, timm_mixer, training_file
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from utils.artefact.card import model_card
from utils.artefact.manifest import build_manifest
from utils.artefact.opening import Pretrained
from utils.checkpoints import entries
from utils.checkpoints.layouts import timm_mixer_keys
from utils.checkpoints.loading import load, read_convmixer, read_mixer
from utils.errors import CheckpointError, CheckpointWarning, ParameterError
from utils.images.labels import Label, class_labels
from utils.models.variants import get_variant
from utils.notebook.parameters import check_conversion

TINY, TINY_MIXER = get_variant("convmixer_tiny"), get_variant("mixer_tiny")


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for key, array in wanted.items():
        np.testing.assert_array_equal(found[key], array, err_msg=key)
        assert found[key].dtype in (np.float32, np.int64)


# (a) What timm's train.py leaves.


@pytest.mark.parametrize("zipped", [True, False])
def test_file_of_timms_trainer_loads_and_says_that_an_average_is_there(tmp_path, zipped):
    path = saved(tmp_path, training_file(), _use_new_zipfile_serialization=zipped)
    loaded = load(custom(path), TINY)
    assert_same(loaded.arrays, tiny.weights("convmixer_tiny"))
    assert [note for note in loaded.notes if "state_dict_ema" in note and "use_ema" in note]


def test_use_ema_takes_the_average(tmp_path):
    loaded = load(custom(saved(tmp_path, training_file())), TINY, use_ema=True)
    wanted = {
        key: a + np.float32(0.5) if a.dtype == np.float32 else a for key, a in tiny.weights("convmixer_tiny").items()
    }
    assert_same(loaded.arrays, wanted)
    assert "state_dict_ema, was taken" in loaded.notes[0]


def test_use_ema_without_an_average_is_an_error_that_names_what_is_there(tmp_path):
    content = training_file()
    del content["state_dict_ema"]
    with pytest.raises(
        CheckpointError, match=r"use_ema is True, and the file has no state_dict_ema.*epoch.*Set use_ema"
    ):
        load(custom(saved(tmp_path, content)), TINY, use_ema=True)
    save_tensors(state_dict(), tmp_path / "own.safetensors")
    with pytest.raises(CheckpointError, match=r"use_ema is True.*one set of weights"):
        load(custom(tmp_path / "own.safetensors"), TINY, use_ema=True)


def test_all_that_a_trainer_keeps_fits_the_limit_and_a_multiple_of_it_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(entries, "VARIANTS", {TINY.name: TINY})
    monkeypatch.setattr(entries, "_TORCH_SLACK_BYTES", 1 << 17)  # a pickle and alignment, which are not small here
    double = {k: v.double() if v.is_floating_point() else v for k, v in state_dict().items()}
    copies = {f"copy {i}": {k: v.clone() for k, v in double.items()} for i in range(3)}
    load(custom(saved(tmp_path, {"state_dict": double, "optimizer": copies})), TINY)
    copies = {f"copy {i}": {k: v.clone() for k, v in double.items()} for i in range(30)}
    with pytest.raises(CheckpointError, match="unpacked, it would take"):
        load(custom(saved(tmp_path, {"state_dict": double, "optimizer": copies})), TINY)


class Calls:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class StatefulNamespace(argparse.Namespace):
    """Pickled as an argparse.Namespace whose state is what it is told."""

    def __init__(self, state):
        self.__dict__["told"] = state

    def __reduce__(self):
        return argparse.Namespace, (), self.told


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("hidden", "named"),
    [
        (lambda path: os.system, "posix.system"),
        (lambda path: Calls(os.system, f"touch {path}"), "posix.system"),
        (lambda path: Calls(open, str(path), "w"), "open"),
        (lambda path: Calls(subprocess.Popen, ["touch", str(path)]), "Popen"),
        (lambda path: [{"deep": Calls(eval, f"open({str(path)!r}, 'w')")}], "eval"),
    ],
    ids=["function", "call", "open", "Popen", "deep"],
)
def test_namespace_whose_state_hides_a_callable_is_refused_and_nothing_runs(tmp_path, hidden, named, zipped):
    content = training_file(args=argparse.Namespace(innocent=1, on_load=hidden(tmp_path / "executed")))
    path = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=f"holds Python objects .*{named}.*Save the state dict alone"):
        load(custom(path), TINY)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "state", [{"__class__": 3}, {"__setstate__": 1, "__dict__": 2}, [1, 2], (None, {"x": 1}), "text"]
)
def test_state_of_a_namespace_is_neither_kept_nor_acted_on(tmp_path, state):
    assert pickle.dumps(StatefulNamespace(state))
    path = saved(tmp_path, training_file(args=StatefulNamespace(state)))
    assert_same(load(custom(path), TINY).arrays, tiny.weights("convmixer_tiny"))


def test_nothing_of_what_stands_beside_the_weights_is_made(tmp_path, monkeypatch):
    """A NumPy scalar of objects, say, would be the object that a file gives."""
    path = saved(tmp_path, training_file(metric=np.array([1.5, 2.5]), best=np.float32(3)))

    def made(*_, **__):
        raise AssertionError("a Namespace was made")

    monkeypatch.setattr(argparse.Namespace, "__init__", made)
    before = len(torch.serialization.get_safe_globals())
    load(custom(path), TINY)
    assert len(torch.serialization.get_safe_globals()) == before
    content = state_dict() | {"head.bias": np.zeros(10, np.float32)}
    with pytest.raises(CheckpointError, match=r"head\.bias: expected float32, found Inert, no tensor"):
        load(custom(saved(tmp_path, content)), TINY)


def test_prefixes_of_parallel_training_and_compiling_are_taken_off(tmp_path):
    for prefix in ("_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod."):
        weights = {prefix + key: value for key, value in state_dict().items()}
        assert_same(load(custom(saved(tmp_path, weights)), TINY).arrays, tiny.weights("convmixer_tiny"))


# (b) .safetensors, and timm's names of a Mixer.


@pytest.mark.parametrize("layout", tiny.LAYOUTS)
def test_convmixer_in_safetensors_loads(tmp_path, layout):
    content = torch.load(tiny.GOLDEN / f"convmixer_tiny.{layout}.pth.tar", weights_only=True)
    save_tensors(content.get("state_dict", content), tmp_path / "own.safetensors")
    assert_same(read_convmixer(tmp_path / "own.safetensors", TINY), tiny.weights("convmixer_tiny"))


@pytest.mark.parametrize("kind", ["safetensors", "pth", "flax names"])
def test_mixer_of_timm_reads_to_flaxs_arrays(tmp_path, kind):
    path = tmp_path / "own"
    if kind == "pth":
        torch.save({key: torch.from_numpy(value) for key, value in timm_mixer().items()}, path)
    else:
        save_file(flax() if kind == "flax names" else timm_mixer(), path)
    found = read_mixer(path, TINY_MIXER)
    assert_same(found, tiny.mixer_weights())
    assert all(array.flags.c_contiguous for array in found.values())


def test_names_of_timm_are_those_of_the_table_both_ways():
    keys = timm_mixer_keys(TINY_MIXER.architecture)
    theirs = timm_mixer()
    assert keys.keys() == theirs.keys()
    assert {key for key, _ in keys.values()} == flax().keys()
    for name, (key, axes) in keys.items():
        np.testing.assert_array_equal(theirs[name].transpose(axes) if axes else theirs[name], flax()[key])


def test_local_mixer_of_timm_is_told_that_its_gelu_is_another(tmp_path):
    save_file(timm_mixer(), tmp_path / "own.safetensors")
    (note,) = load(custom(tmp_path / "own.safetensors"), TINY_MIXER).notes
    assert "erf" in note
    mirror = dataclasses.replace(custom(tmp_path / "own.safetensors"), weights="official")
    assert load(mirror, TINY_MIXER).notes == ()


def test_mixer_not_transposed_is_refused(tmp_path):
    arrays = timm_mixer()
    arrays["blocks.1.mlp_tokens.fc1.weight"] = np.ascontiguousarray(arrays["blocks.1.mlp_tokens.fc1.weight"].T)
    save_file(arrays, tmp_path / "own.safetensors")
    with pytest.raises(CheckpointError, match=r"misshapen: MixerBlock_1/token_mixing/Dense_0/kernel"):
        read_mixer(tmp_path / "own.safetensors", TINY_MIXER)


def test_safetensors_of_the_other_family_is_recognised(tmp_path):
    save_file(timm_mixer(), tmp_path / "mixer")
    with pytest.raises(CheckpointError, match=r"conversion_mlpmixer\.ipynb"):
        read_convmixer(tmp_path / "mixer", TINY)
    save_tensors(state_dict(), tmp_path / "convmixer")
    with pytest.raises(CheckpointError, match=r"conversion_convmixer\.ipynb"):
        read_mixer(tmp_path / "convmixer", TINY_MIXER)


def with_header(change):
    """The bytes of a .safetensors file whose header was changed."""

    def make(folder):
        save_tensors(state_dict(), folder / "good")
        content = (folder / "good").read_bytes()
        (folder / "good").unlink()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return make


def whole(folder):
    return with_header(lambda header: None)(folder)


BAD_SAFETENSORS = {
    "shape larger than its bytes": (with_header(lambda h: h["head.bias"].update(shape=[10**6])), "damaged"),
    "offsets past the end": (with_header(lambda h: h["head.bias"].update(data_offsets=[0, 1 << 40])), "its header"),
    "overlap": (with_header(lambda h: h["stem.0.bias"].update(h["stem.2.bias"])), "its header"),
    "negative": (with_header(lambda h: h["head.bias"].update(data_offsets=[-40, 0])), "its header"),
    "overflowing shape": (with_header(lambda h: h["head.bias"].update(shape=[2**62, 2**62])), "its header"),
    "unknown dtype": (with_header(lambda h: h["head.bias"].update(dtype="PICKLE")), "its header"),
    "no offsets": (with_header(lambda h: h["head.bias"].pop("data_offsets")), "its header"),
    "header no JSON": (lambda f: struct.pack("<Q", 64) + b"{" + b"x" * 200, "its header"),
    "header length huge": (lambda f: struct.pack("<Q", 1 << 60) + whole(f)[8:], "announces a header of 1,152,921,504"),
    "header longer than the file": (lambda f: struct.pack("<Q", 10**7) + whole(f)[8:], "a header of 10,000,000"),
    "cut in the header": (lambda f: whole(f)[:300], "announces a header"),
    "cut in the data": (lambda f: whole(f)[:-9], "its header"),
    "longer than it says": (lambda f: whole(f) + b"more", "its header"),
    "empty header": (lambda f: struct.pack("<Q", 2) + b"{}", "51 missing"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_SAFETENSORS)
def test_bad_safetensors_is_refused_by_name(tmp_path, kind):
    make, message = BAD_SAFETENSORS[kind]
    path = tmp_path / "own.safetensors"
    path.write_bytes(make(tmp_path))
    with pytest.raises(CheckpointError, match=message) as raised:
        read_convmixer(path, TINY)
    assert str(path) in str(raised.value)


# (c) Other precisions.


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_other_precision_is_converted_and_said(tmp_path, dtype, kind):
    weights = {k: v.to(getattr(torch, dtype)) if v.is_floating_point() else v for k, v in state_dict().items()}
    path = saved(tmp_path, weights)
    if kind == "safetensors":
        path = tmp_path / "own.safetensors"
        save_tensors(weights, path)
    with pytest.warns(CheckpointWarning, match=f"arrays are {dtype}; they were converted to float32"):
        found = read_convmixer(path, TINY)
    assert_same(found, {k: v.float().numpy() if v.is_floating_point() else v.numpy() for k, v in weights.items()})


@pytest.mark.parametrize(("dtype", "said"), [("float16", "without loss"), ("float64", "loses digits")])
def test_npz_of_another_precision_is_converted_and_said(tmp_path, dtype, said):
    arrays = {key: array.astype(dtype) for key, array in flax().items()}
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.warns(CheckpointWarning, match=said):
        found = read_mixer(tmp_path / "own.npz", TINY_MIXER)
    assert_same(found, {key: array.astype(np.float32) for key, array in arrays.items()})


def test_float32_is_read_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.weights("convmixer_tiny")
        tiny.mixer_weights()


# (d) Classes of one's own.


@pytest.mark.parametrize("count", [1, 3, 1000])
def test_local_file_has_its_own_number_of_classes(tmp_path, count):
    loaded = load(custom(saved(tmp_path, of_classes(count))), TINY)
    assert loaded.variant.architecture == dataclasses.replace(TINY.architecture, classes=count)
    assert loaded.arrays["head.weight"].shape == (count, 32)
    assert loaded.variant.parameters == TINY.parameters + (count - 10) * 33
    arrays = flax()
    arrays["head/kernel"], arrays["head/bias"] = np.ones((32, count), np.float32), np.ones(count, np.float32)
    np.savez(tmp_path / "own.npz", **arrays)
    assert load(custom(tmp_path / "own.npz"), TINY_MIXER).variant.architecture.classes == count


@pytest.mark.parametrize("weights", ["official", "synthetic"])
def test_official_and_synthetic_files_have_the_variants_classes(tmp_path, weights):
    checkpoint = dataclasses.replace(custom(saved(tmp_path, of_classes(3))), weights=weights)
    with pytest.raises(CheckpointError, match=r"misshapen: head\.weight: expected \[10, 32\], found \[3, 32\]"):
        load(checkpoint, TINY)


@pytest.mark.parametrize(("shape", "bias"), [((3, 31), 3), ((3, 32), 4), ((3, 32), 0)])
def test_head_that_fits_no_model_is_refused(tmp_path, shape, bias):
    content = state_dict() | {"head.weight": torch.zeros(shape), "head.bias": torch.zeros(bias)}
    with pytest.raises(CheckpointError, match=r"misshapen: head\."):
        load(custom(saved(tmp_path, content)), TINY)


def test_features_need_no_head(tmp_path):
    content = {key: value for key, value in state_dict().items() if not key.startswith("head.")}
    path = saved(tmp_path, content)
    assert not [key for key in load(custom(path), TINY, "fe").arrays if key.startswith("head")]
    with pytest.raises(CheckpointError, match=r"2 missing: head\.weight; head\.bias"):
        load(custom(path), TINY)


def test_nothing_of_the_official_weights_is_claimed_for_others(tmp_path):
    from utils.models.variants import customised

    row = customised(get_variant("convmixer_768_32"), 3)
    assert (row.labels, row.top1) == (None, None)
    assert "ImageNet" not in row.trained_on + row.top1_source
    assert customised(get_variant("convmixer_768_32"), 1000).labels == "imagenet1k"


def test_manifest_and_card_of_a_local_file_claim_nothing_of_the_official_weights():
    source = {"url": None, "path": "own.pth.tar", "sha256": "ab" * 32}
    tensor = {"dtype": "float32", "shape": [None, 3]}
    row = {"output": "logits", "input": "noise", "batch": 1, "max_abs": 0.0, "relative": 0.0, "rmse": 0.0,
           "top1": 1.0, "top5": 1.0, "tolerance": 1e-5, "passed": True}  # fmt: skip
    manifest = build_manifest(
        name="convmixer_768_32_classification", variant=get_variant("convmixer_768_32"), head="classification",
        weights="custom", source=source, versions={"tensorflow": "2.21.0"}, parameters=7,
        signatures={"serving_default": {"inputs": {"inputs": tensor}, "outputs": {"logits": tensor}}},
        parity={"passed": True, "tolerance": {"logits": 1e-5}, "rows": [row]}, seconds={"load": 1}, peak_memory_mb=1,
        files={"saved_model.pb": "ab" * 32}, notes=["an average | is there"])  # fmt: skip
    assert (manifest["model"]["labels"], manifest["model"]["top1"]) == (None, None)
    card = model_card(manifest)
    assert "80.16" not in card
    assert "trained on" not in card.split("## Intended use")[0]
    assert "imagenet" not in card.lower().split("## intended use")[0]
    assert "| note | an average \\| is there |" in card
    opened = Pretrained(Path("x"), manifest, "logits", 3, get_variant("convmixer_768_32").preprocessing, None, {})
    assert "ImageNet" not in opened.variant.trained_on


def test_class_names_are_read_with_and_without_ids(tmp_path):
    path = tmp_path / "own.txt"
    path.write_bytes("\ufeffcat\r\nn1\tgreat  dog\r\nœuf\r\n".encode())
    assert class_labels(path, None, 3) == [Label("class_0", "cat"), Label("n1", "great dog"), Label("class_2", "œuf")]
    assert class_labels("", None, 3) is None
    assert len(class_labels("", "imagenet1k", 1000)) == 1000


def test_wrong_number_of_class_names_is_an_error_with_both_counts(tmp_path):
    (tmp_path / "own.txt").write_text("cat\ndog\n")
    for count in (1, 3):
        with pytest.raises(ParameterError, match=rf"own\.txt names 2 classes, .* and the checkpoint has {count}"):
            class_labels(tmp_path / "own.txt", "imagenet1k", count)


def check(**parameters):
    path = str(tiny.GOLDEN / "convmixer_tiny.timm.pth.tar")
    good = {"family": "convmixer", "variant": "convmixer_tiny", "head": "classification", "checkpoint": path}
    return check_conversion(**good | {"image_size": 48, "output_dir": "exports", "seed": 0} | parameters)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "labels is '.*own.txt', which cannot be read: No such file"),
        (b"cat\n\xff\xfe\n", "not UTF-8"),
        (b"cat\n\ndog\n", "line 2"),
        (b"a\tb\tc\n", "line 1"),
        (b"", "line 1"),
    ],
    ids=["missing", "latin", "blank line", "three columns", "empty"],
)
def test_bad_file_of_class_names_stops_before_anything_is_made(tmp_path, content, message):
    if content is not None:
        (tmp_path / "own.txt").write_bytes(content)
    with pytest.raises(ParameterError, match=message):
        check(labels=str(tmp_path / "own.txt"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": 3}, "labels is 3"),
        ({"labels": "x", "head": "fe"}, "has no classes"),
        ({"use_ema": "yes"}, "use_ema is 'yes'"),
        ({"use_ema": True, "checkpoint": "synthetic"}, "use_ema is True, and checkpoint is 'synthetic'"),
    ],
)
def test_senseless_parameters_are_named(wrong, message):
    with pytest.raises(ParameterError, match=message):
        check(**wrong)


# (e) Entries that are no part of the model.


@pytest.mark.parametrize("kind", ["pth", "safetensors", "npz"])
def test_surplus_entries_are_named_and_left_out(tmp_path, kind):
    path, variant, wanted = tmp_path / "own", TINY, tiny.weights("convmixer_tiny")
    extra = {"fc_aux.weight": torch.zeros(3), "norm.foo": torch.zeros(2)}
    if kind == "pth":
        torch.save(state_dict() | extra, path)
    elif kind == "safetensors":
        save_tensors(state_dict() | extra, path)
    else:
        np.savez(path, **flax() | {"fc_aux.weight": np.zeros(3), "norm.foo": np.zeros(3)})
        path, variant, wanted = tmp_path / "own.npz", TINY_MIXER, tiny.mixer_weights()
    loaded = load(custom(path), variant)
    assert_same(loaded.arrays, wanted)
    (note,) = loaded.notes
    assert "2 entries are no part of" in note
    assert "fc_aux.weight; norm.foo" in note


def test_file_with_more_blocks_is_another_model_and_no_surplus(tmp_path):
    extra = {f"blocks.3.{key}": torch.zeros(1) for key in ("1.weight", "1.bias")}
    with pytest.raises(CheckpointError, match=r"2 surplus: blocks\.3\.1\.weight"):
        load(custom(saved(tmp_path, state_dict() | extra)), TINY)
    arrays = torch.load(tiny.GOLDEN / "convmixer_tiny.sequential.pth.tar", weights_only=True)
    with pytest.raises(CheckpointError, match=r"1 surplus: 9\.weight"):
        load(custom(saved(tmp_path, arrays | {"9.weight": torch.zeros(1)})), TINY)
    arrays = timm_mixer() | {"stem.norm.weight": np.ones(32, np.float32)}
    save_file(arrays, tmp_path / "own.safetensors")
    with pytest.raises(CheckpointError, match=r"1 surplus: stem\.norm\.weight"):
        load(custom(tmp_path / "own.safetensors"), TINY_MIXER)


# Honest files of other trainers and tools, and dishonest ones of allowed names only.


def prefixed(prefix):
    return {prefix + key: value for key, value in state_dict().items()}


@pytest.mark.parametrize(
    ("content", "left_out"),
    [
        ({"state_dict": prefixed("model."), "hyper_parameters": {"lr": 0.1}}, None),
        ({"state_dict": prefixed("model.") | {"criterion.weight": torch.ones(10)}}, "criterion.weight"),
        ({"n_averaged": torch.tensor(3)} | prefixed("module."), "n_averaged"),
        ({"model": "convmixer", "model_state_dict": state_dict(), "loss": 0.1}, None),
    ],
    ids=["Lightning", "Lightning with a loss of weights", "AveragedModel", "PyTorch's tutorial"],
)
def test_file_of_another_trainer_loads(tmp_path, content, left_out):
    loaded = load(custom(saved(tmp_path, content)), TINY)
    assert_same(loaded.arrays, tiny.weights("convmixer_tiny"))
    assert [left_out in note for note in loaded.notes] == [True] * bool(left_out)


def test_average_that_torchvision_leaves_is_taken(tmp_path):
    content = {"model": of_classes(3), "model_ema": {"n_averaged": torch.tensor(3)} | prefixed("module.")}
    assert_same(load(custom(saved(tmp_path, content)), TINY, use_ema=True).arrays, tiny.weights("convmixer_tiny"))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model."])
def test_prefixes_are_taken_off_in_safetensors_too(tmp_path, prefix):
    save_tensors(prefixed(prefix), tmp_path / "own.safetensors")
    assert_same(load(custom(tmp_path / "own.safetensors"), TINY).arrays, tiny.weights("convmixer_tiny"))


def test_prefix_of_a_part_of_the_model_stays(tmp_path):
    content = {("model." if key < "h" else "") + key: value for key, value in state_dict().items()}
    with pytest.raises(CheckpointError, match=r"surplus: .*model\.blocks"):
        load(custom(saved(tmp_path, content)), TINY)


@pytest.mark.parametrize("missing", [True, False])
def test_counters_that_nothing_is_computed_with_may_be_missing_or_of_another_type(tmp_path, missing):
    """float32 is what timm's avg_checkpoints.py makes of them."""
    counters = [key for key in state_dict() if key.endswith("num_batches_tracked")]
    content = {key: value.float() for key, value in state_dict().items() if not (missing and key in counters)}
    loaded = load(custom(saved(tmp_path, content)), TINY)
    assert_same(loaded.arrays, tiny.weights("convmixer_tiny") | {key: np.zeros((), np.int64) for key in counters})
    (note,) = loaded.notes
    assert f"{len(counters)} counters of batches" in note


def test_average_that_is_none_is_no_average(tmp_path):
    path = saved(tmp_path, training_file(state_dict_ema=None))
    assert load(custom(path), TINY).notes == ()
    with pytest.raises(CheckpointError, match="use_ema is True, and the file has no state_dict_ema"):
        load(custom(path), TINY, use_ema=True)


def test_average_of_a_mixer_is_told_without_naming_a_parameter_that_its_notebook_lacks(tmp_path):
    tensors = {key: torch.from_numpy(value) for key, value in timm_mixer().items()}
    path = saved(tmp_path, {"state_dict": tensors, "state_dict_ema": tensors})
    average, _ = load(custom(path), TINY_MIXER).notes
    assert "state_dict_ema, which was not taken" in average
    assert "as a file of its own" in average
    assert "use_ema" not in average


class Hidden(Calls):
    """A tensor or dict whose attributes the file tells: by names that reading may use, and allowed callables alone."""

    @classmethod
    def tensor(cls, tensor, **attributes):
        storage = torch.storage.TypedStorage(wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True)
        arguments = (storage, 0, tuple(tensor.shape), tensor.stride(), False, {})
        return cls(
            torch._tensor._rebuild_from_type_v2, torch._utils._rebuild_tensor_v2, torch.Tensor, arguments, attributes
        )


@pytest.mark.parametrize("hiding", [set, torch.Tensor, argparse.Namespace])
def test_methods_are_not_those_that_a_file_tells(tmp_path, hiding):
    bias = Hidden.tensor(state_dict()["head.bias"], detach=hiding)
    content = OrderedDict(state_dict() | {"head.bias": bias})
    content.__dict__["keys"] = hiding
    assert_same(load(custom(saved(tmp_path, content)), TINY).arrays, tiny.weights("convmixer_tiny"))


def test_tensor_that_numpy_cannot_show_is_named(tmp_path):
    content = state_dict() | {"head.bias": torch.zeros(10, dtype=torch.complex64).conj().imag}
    with pytest.raises(CheckpointError, match=r"own\.pth\.tar: head\.bias cannot be read: .*Save"):
        load(custom(saved(tmp_path, content)), TINY)


def test_torchscript_is_called_by_its_name(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(3, 3)), tmp_path / "own.pth.tar")
    with pytest.raises(CheckpointError, match=r"TorchScript.*torch\.jit\.load\(path\)\.state_dict\(\)"):
        load(custom(tmp_path / "own.pth.tar"), TINY)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [4, 5])
def test_newer_pickle_is_refused_without_the_advice_to_load_it_unsafely(tmp_path, protocol):
    with pytest.raises(CheckpointError, match="newer pickle_protocol") as raised:
        load(custom(saved(tmp_path, state_dict(), pickle_protocol=protocol)), TINY)
    assert "weights_only" not in str(raised.value)


def test_pickle_of_no_sense_is_refused_without_the_advice_to_load_it_unsafely(tmp_path):
    class Items(argparse.Namespace):
        def __reduce__(self):
            return argparse.Namespace, (), None, None, iter([("key", "value"), ("other", "value")])

    with pytest.raises(CheckpointError, match="damaged or no PyTorch checkpoint: Can only SETITEMS") as raised:
        load(custom(saved(tmp_path, training_file(args=Items()))), TINY)
    assert "weights_only" not in str(raised.value)


def test_value_too_large_for_float32_is_told_as_one_reason(tmp_path):
    content = state_dict() | {"head.bias": torch.full((10,), 1e300, dtype=torch.float64)}
    with pytest.raises(CheckpointError, match=r"head\.bias: 0 NaN and 10 infinite(.|\n)*float64 values are too large"):
        load(custom(saved(tmp_path, content)), TINY)


def test_file_without_head_is_told_of_the_head_for_features(tmp_path):
    content = {key: value for key, value in state_dict().items() if not key.startswith("head.")}
    with pytest.raises(CheckpointError, match="set head to 'fe'"):
        load(custom(saved(tmp_path, content)), TINY)


def test_names_of_entries_are_shown_short_and_without_control_characters(tmp_path):
    content = state_dict() | {"\x1b[31mred\n": torch.zeros(1), "x" * 10**5: torch.zeros(1)}
    (note,) = load(custom(saved(tmp_path, content)), TINY).notes
    assert "\\x1b[31mred\\n" in note
    assert len(note) < 1000
    assert note.isprintable()


def test_id_of_a_class_stays_on_its_line(tmp_path):
    (tmp_path / "own.txt").write_text("a\x85b\tcat\n", encoding="utf-8")
    assert class_labels(tmp_path / "own.txt", None, 1) == [Label("a b", "cat")]
