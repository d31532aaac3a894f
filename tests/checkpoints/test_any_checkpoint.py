"""Honest files of every kind load, and what must be known is said; hostile ones are refused, and run nothing."""

import argparse
import dataclasses
import itertools
import json
import os
import pickle
import struct
import subprocess
from collections import OrderedDict

import numpy as np
import pytest
import tiny
import torch
from own_checkpoints import assert_same, custom, flax, of_classes, saved, state_dict, timm_mixer, training_file
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from utils.checkpoints import entries
from utils.checkpoints.loading import load, read
from utils.errors import CheckpointError, CheckpointWarning
from utils.families.variants import customised, get_variant

TINY, TINY_MIXER = get_variant("convmixer_tiny"), get_variant("mixer_tiny")


# (a) What timm's train.py leaves.


@pytest.mark.parametrize("zipped", [True, False])
def test_file_of_timms_trainer_loads_and_says_that_an_average_is_there(tmp_path, zipped):
    path = saved(tmp_path, training_file(), _use_new_zipfile_serialization=zipped)
    loaded = load(custom(path), TINY)
    assert_same(loaded.arrays, tiny.weights("convmixer_tiny"))
    assert [note for note in loaded.notes if "state_dict_ema" in note and "use_ema" in note]


@pytest.mark.parametrize("trainer", ["timm", "torchvision"])
def test_use_ema_takes_the_average(tmp_path, trainer):
    content, key = training_file(), "state_dict_ema"
    wanted = {name: value.numpy() for name, value in content[key].items()}
    if trainer == "torchvision":
        average = {f"module.{name}": value for name, value in content[key].items()}
        content, key = {"model": of_classes(3), "model_ema": {"n_averaged": torch.tensor(3)} | average}, "model_ema"
    loaded = load(custom(saved(tmp_path, content)), TINY, use_ema=True)
    assert_same(loaded.arrays, wanted)
    assert f"{key}, was taken" in loaded.notes[0]


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


# (b) .safetensors, and timm's names of a Mixer.


@pytest.mark.parametrize("layout", tiny.LAYOUTS)
def test_convmixer_in_safetensors_loads(tmp_path, layout):
    content = torch.load(tiny.GOLDEN / f"convmixer_tiny.{layout}.pth.tar", weights_only=True)
    save_tensors(content.get("state_dict", content), tmp_path / "own.safetensors")
    assert_same(read(tmp_path / "own.safetensors", TINY), tiny.weights("convmixer_tiny"))


@pytest.mark.parametrize("kind", ["safetensors", "pth", "flax names"])
def test_mixer_of_timm_reads_to_flaxs_arrays(tmp_path, kind):
    path = tmp_path / "own"
    if kind == "pth":
        torch.save({key: torch.from_numpy(value) for key, value in timm_mixer().items()}, path)
    else:
        save_file(flax() if kind == "flax names" else timm_mixer(), path)
    found = read(path, TINY_MIXER)
    assert_same(found, tiny.mixer_weights())
    assert all(array.flags.c_contiguous for array in found.values())


def test_local_mixer_of_timm_is_told_that_its_gelu_is_another(tmp_path):
    save_file(timm_mixer(), tmp_path / "own.safetensors")
    (note,) = load(custom(tmp_path / "own.safetensors"), TINY_MIXER).notes
    assert "erf" in note
    mirror = dataclasses.replace(custom(tmp_path / "own.safetensors"), weights="official")
    assert load(mirror, TINY_MIXER).notes == ()


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
        read(path, TINY)
    assert str(path) in str(raised.value)


# (c) Other precisions.


LOSS = {"float16": "without loss", "bfloat16": "without loss", "float64": "loses digits"}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*itertools.product(("pth", "safetensors"), LOSS), ("npz", "float16"), ("npz", "float64")],  # NumPy has no bfloat16
)
def test_other_precision_is_converted_and_said(tmp_path, dtype, kind):
    path, variant, weights = tmp_path / "own.pth.tar", TINY, state_dict()
    weights = {k: v.to(getattr(torch, dtype)) if v.is_floating_point() else v for k, v in weights.items()}
    wanted = {k: v.float().numpy() if v.is_floating_point() else v.numpy() for k, v in weights.items()}
    if kind == "npz":
        path, variant, weights = tmp_path / "own.npz", TINY_MIXER, flax()
        weights = {key: array.astype(dtype) for key, array in weights.items()}
        wanted = {key: array.astype(np.float32) for key, array in weights.items()}
        np.savez(path, **weights)
    else:
        {"pth": torch.save, "safetensors": save_tensors}[kind](weights, path)
    with pytest.warns(CheckpointWarning, match=f"arrays are {dtype}; they were converted to float32, .*{LOSS[dtype]}"):
        assert_same(read(path, variant), wanted)


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
    with pytest.raises(CheckpointError, match=r"(?s)2 missing: head\.weight; head\.bias.*set head to 'fe'"):
        load(custom(path), TINY)


def test_nothing_of_the_official_weights_is_claimed_for_others(tmp_path):
    row = customised(get_variant("convmixer_768_32"), 3)
    assert (row.labels, row.top1) == (None, None)
    assert "ImageNet" not in row.trained_on + row.top1_source
    assert customised(get_variant("convmixer_768_32"), 1000).labels == "imagenet1k"


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


# Honest files of other trainers and tools, and dishonest ones of allowed names only.


def prefixed(prefix):
    return {prefix + key: value for key, value in state_dict().items()}


TRAINERS = {
    "DeiT": ({"model": state_dict()}, None),
    "twice": ({"epoch": 3, "optimizer": {"lr": 0.1}, "model": {"state_dict": state_dict()}}, None),
    "Lightning": ({"state_dict": prefixed("model."), "hyper_parameters": {"lr": 0.1}}, None),
    "Lightning, weighted": (
        {"state_dict": prefixed("model.") | {"criterion.weight": torch.ones(10)}},
        "criterion.weight",
    ),
    "AveragedModel": ({"n_averaged": torch.tensor(3)} | prefixed("module."), "n_averaged"),
    "PyTorch's tutorial": ({"model": "convmixer", "model_state_dict": state_dict(), "loss": 0.1}, None),
    "compiled": (prefixed("_orig_mod."), None),
    "parallel and compiled": (prefixed("module._orig_mod."), None),
    "parameters": ({k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in state_dict().items()}, None),
}


@pytest.mark.parametrize(("content", "left_out"), TRAINERS.values(), ids=TRAINERS)
def test_file_of_another_trainer_loads(tmp_path, content, left_out):
    loaded = load(custom(saved(tmp_path, content)), TINY)
    assert_same(loaded.arrays, tiny.weights("convmixer_tiny"))
    assert [left_out in note for note in loaded.notes] == [True] * bool(left_out)


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


def test_names_of_entries_are_shown_short_and_without_control_characters(tmp_path):
    content = state_dict() | {"\x1b[31mred\n": torch.zeros(1), "x" * 10**5: torch.zeros(1)}
    (note,) = load(custom(saved(tmp_path, content)), TINY).notes
    assert "\\x1b[31mred\\n" in note
    assert len(note) < 1000
    assert note.isprintable()
