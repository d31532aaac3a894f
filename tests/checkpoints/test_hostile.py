"""Every kind of bad file is refused by name, and runs nothing. Damaged zip archives: `test_archives.py`."""

import argparse
import io
import itertools
import json
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import memory
import numpy as np
import pytest
import tiny
import torch
from own_checkpoints import assert_same, custom, load, saved, state_dict, training_file
from safetensors.torch import save

from utils.checkpoints import synthetic
from utils.checkpoints.loading import resolve
from utils.errors import CheckpointError
from utils.families.variants import get_variant

REPOSITORY = Path(__file__).resolve().parents[2]
TINY, TINY_MIXER = get_variant("convmixer_tiny"), get_variant("mixer_tiny")


# Entries that are not what they should be.


def changed(key, value):
    weights = state_dict()
    weights[key] = value(weights[key]) if callable(value) else value
    return weights


def poisoned(value):
    def poison(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[1] = value
        return tensor

    return poison


WRONG_TENSORS = {
    "missing": (lambda: {k: v for k, v in state_dict().items() if k != "blocks.1.1.bias"},
                r"1 missing: blocks\.1\.1\.bias"),
    "surplus": (lambda: state_dict() | {"blocks.3.1.bias": torch.zeros(2)}, r"1 surplus: blocks\.3\.1\.bias"),
    "surplus in the stem": (lambda: state_dict() | {"stem.norm.weight": torch.zeros(2)}, r"surplus: stem\.norm"),
    "surplus by number": (lambda: torch.load(tiny.GOLDEN / "convmixer_tiny.sequential.pth.tar", weights_only=True)
                          | {"9.weight": torch.zeros(1)}, r"1 surplus: 9\.weight"),
    "misspelt": (lambda: {k.replace("head.b", "classifier.b"): v for k, v in state_dict().items()},
                 r"1 surplus: classifier\.bias"),
    "shape": (lambda: changed("head.weight", torch.zeros(11, 32)),
              r"1 misshapen: head\.weight: expected \[10, 32\], found \[11, 32\]"),
    "expanded": (lambda: changed("stem.0.bias", torch.zeros(1).expand(10**6, 10**6)),
                 r"misshapen: stem\.0\.bias: expected \[32\], found \[1000000, 1000000\]"),
    "too large": (lambda: changed("head.bias", lambda bias: bias.double() + 1e300),
                  r"(?s)head\.bias: 0 NaN and 10 inf.*float64 values are too large"),
    "counter": (lambda: changed("stem.2.num_batches_tracked", torch.Tensor.float),
                "num_batches_tracked: expected int64, found float32"),
    "list": (lambda: changed("stem.0.bias", [1.0, 2.0]), "expected float32, found list, no tensor"),
    "array": (lambda: changed("stem.0.bias", np.zeros(32, np.float32)), "expected float32, found Inert, no tensor"),
    "sparse": (lambda: changed("head.weight", torch.Tensor.to_sparse), "sparse"),
    "negated view": (lambda: changed("head.bias", torch.zeros(10, dtype=torch.complex64).conj().imag),
                     r"head\.bias cannot be read"),
    "nan": (lambda: changed("blocks.2.3.weight", poisoned(float("nan"))),
            r"not finite: blocks\.2\.3\.weight: 1 NaN and 0 infinite of 32"),
    "variance": (lambda: changed("stem.2.running_var", poisoned(-1.0)),
                 r"negative variance: stem\.2\.running_var"),
    "half parallel": (lambda: {("module." if k < "c" else "") + k: v for k, v in state_dict().items()},
                      r"missing: stem\.0\.weight"),
    "empty": (dict, "expected a state dict .* found dict"),
    "no mapping": (lambda: [torch.zeros(3)], "expected a state dict .* found list"),
    "numbers as keys": (lambda: {0: torch.zeros(3)}, "expected a state dict"),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG_TENSORS)
def test_wrong_entry_of_a_pytorch_file_is_named(tmp_path, fault):
    content, message = WRONG_TENSORS[fault]
    path = saved(tmp_path, content())
    with pytest.raises(CheckpointError, match=message) as raised:
        tiny.read(path, TINY)
    assert str(path) in str(raised.value)


def test_other_byte_order_of_an_npz_is_named(tmp_path):
    np.savez(tmp_path / "own.npz", **tiny.mixer_weights() | {"head/bias": np.zeros(10, ">f4")})
    with pytest.raises(CheckpointError, match="wrongly typed: head/bias: expected float32, found >f4"):
        tiny.read(tmp_path / "own.npz", TINY_MIXER)


@pytest.mark.parametrize(
    ("file", "variant", "named"),
    [
        ("convmixer_tiny_relu.sequential.pth.tar", "convmixer_tiny", "looks like convmixer_tiny_relu:"),
        ("mixer_tiny.npz", "mixer_s8_gsam", "looks like mixer_tiny:"),
        ("mixer_tiny.npz", "convmixer_tiny", r"conversion_mlpmixer\.ipynb"),
        ("convmixer_tiny.timm.pth.tar", "mixer_tiny", r"conversion_convmixer\.ipynb"),
    ],
)
def test_file_of_another_variant_or_family_is_recognised(file, variant, named):
    with pytest.raises(CheckpointError, match=named):
        tiny.read(tiny.GOLDEN / file, get_variant(variant))


def test_names_of_entries_are_shown_short_and_without_control_characters(tmp_path):
    content = state_dict() | {"\x1b[31mred\n": torch.zeros(1), "x" * 10**5: torch.zeros(1)}
    (note,) = load(custom(saved(tmp_path, content)), TINY).notes
    assert "\\x1b[31mred\\n" in note
    assert len(note) < 1000
    assert note.isprintable()


# Files that are no checkpoints, or run a program.


class Calls:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def zip_of_text(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


NO_CHECKPOINTS = {
    "pointer": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "neither a PyTorch"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"stem.0.weight": [1.0]})), "bare Python pickle"),
    "zip of other things": (zip_of_text, r"readme\.txt"),
    "folder": (Path.mkdir, "found a folder"),
    "pipe": (os.mkfifo, "found a device or pipe"),
    "absent": (lambda path: None, 'there is no such file.*"official", "synthetic"'),
    "TorchScript": (lambda path: torch.jit.save(torch.jit.script(torch.nn.Linear(3, 3)), path), "TorchScript"),
}


@pytest.mark.parametrize("kind", NO_CHECKPOINTS)
def test_file_that_is_no_checkpoint_is_refused_by_name(tmp_path, kind):
    make, message = NO_CHECKPOINTS[kind]
    make(tmp_path / "own")
    for variant in (TINY, TINY_MIXER):
        with pytest.raises(CheckpointError, match=rf"own: .*{message}"):
            load(resolve(variant, str(tmp_path / "own"), 0), variant)


def test_unreadable_file_is_refused_by_name(tmp_path, monkeypatch):
    # Not by chmod: the superuser, as whom containers run tests, may read everything.
    path = saved(tmp_path, state_dict())

    def denied(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(CheckpointError, match=r"own\.pth\.tar: the file cannot be read: Permission denied"):
        resolve(TINY, path, 0)


HIDDEN = {
    "function": (lambda path: os.system, "posix.system"),
    "call": (lambda path: Calls(os.system, f"touch {path}"), "posix.system"),
    "open": (lambda path: Calls(open, str(path), "w"), "open"),
    "deep": (lambda path: [{"deep": Calls(eval, f"open({str(path)!r}, 'w')")}], "eval"),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", HIDDEN)
def test_callable_in_the_state_of_a_namespace_is_refused_and_does_not_run(tmp_path, kind, zipped):
    hidden, named = HIDDEN[kind]
    content = training_file(args=argparse.Namespace(innocent=1, on_load=hidden(tmp_path / "executed")))
    path = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=f"holds Python objects .*{named}.*save the state dict alone"):
        load(custom(path), TINY)
    assert not (tmp_path / "executed").exists()


def test_pickles_run_neither_alone_nor_in_an_npz(tmp_path):
    bomb = Calls(open, str(tmp_path / "executed"), "w")
    (tmp_path / "pickle").write_bytes(pickle.dumps(bomb))
    np.savez(tmp_path / "own.npz", **tiny.mixer_weights() | {"head/bias": np.array([bomb])})
    for path, variant in itertools.product((tmp_path / "pickle", tmp_path / "own.npz"), (TINY, TINY_MIXER)):
        with pytest.raises(CheckpointError, match=path.name):
            tiny.read(path, variant)
    assert not (tmp_path / "executed").exists()
    pickle.loads((tmp_path / "pickle").read_bytes()).close()
    assert (tmp_path / "executed").exists(), "the bomb is no bomb"


class StatefulNamespace(argparse.Namespace):
    """Pickled as an argparse.Namespace whose state is what it is told."""

    def __init__(self, state):
        self.__dict__["told"] = state

    def __reduce__(self):
        return argparse.Namespace, (), self.told


@pytest.mark.parametrize("state", [{"__setstate__": 1, "__dict__": 2}, [1, 2], (None, {"__class__": 3})])
def test_state_of_a_namespace_is_not_acted_on(tmp_path, monkeypatch, state):
    path = saved(tmp_path, training_file(args=StatefulNamespace(state), metric=np.array([1.5, 2.5])))

    def made(*_, **__):
        raise AssertionError("a Namespace was made")

    monkeypatch.setattr(argparse.Namespace, "__init__", made)
    before = len(torch.serialization.get_safe_globals())
    assert_same(load(custom(path), TINY).arrays, tiny.weights("convmixer_tiny"))
    assert len(torch.serialization.get_safe_globals()) == before


class Hidden(Calls):
    """A tensor whose attributes the file sets: by names that reading may use, and allowed callables alone."""

    @classmethod
    def tensor(cls, tensor, **attributes):
        storage = torch.storage.TypedStorage(wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True)
        arguments = (storage, 0, tuple(tensor.shape), tensor.stride(), False, {})
        return cls(
            torch._tensor._rebuild_from_type_v2, torch._utils._rebuild_tensor_v2, torch.Tensor, arguments, attributes
        )


@pytest.mark.parametrize("hiding", [set, torch.Tensor, argparse.Namespace])
def test_methods_are_not_those_that_a_file_sets(tmp_path, hiding):
    bias = Hidden.tensor(state_dict()["head.bias"], detach=hiding)
    content = OrderedDict(state_dict() | {"head.bias": bias})
    content.__dict__["keys"] = hiding
    assert_same(load(custom(saved(tmp_path, content)), TINY).arrays, tiny.weights("convmixer_tiny"))


class Items(argparse.Namespace):
    def __reduce__(self):
        return argparse.Namespace, (), None, None, iter([("key", "value"), ("other", "value")])


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(("args", "protocol"), [(None, 4), (Items(), 2)], ids=["newer pickle", "senseless pickle"])
def test_pickle_that_cannot_be_read_safely_is_refused_without_the_advice_to_load_it_unsafely(tmp_path, args, protocol):
    path = saved(tmp_path, training_file(args=args), pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"own\.pth\.tar: .*save the state dict alone") as raised:
        load(custom(path), TINY)
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize("variant", [TINY, TINY_MIXER])
def test_bytes_of_any_length_are_not_made(variant):
    """400 bytes, of which PyTorch's unpickler would make 3 GB."""
    with pytest.raises(CheckpointError, match="bytearray"):
        load(custom(Path(__file__).parents[1] / "data" / "hostile" / "bytearray.pth"), variant)


def test_old_file_that_lacks_a_storage_is_refused(tmp_path):
    """PyTorch gives whatever is in memory for it."""
    path = saved(tmp_path, state_dict(), _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    with path.open("rb") as file:
        *_, keys = [pickle.load(file, encoding="ascii") if i != 3 else skipped(file) for i in range(5)]
    whole, less = (pickle.dumps(each, protocol=2) for each in (keys, keys[:-1]))
    assert data.count(whole) == 1
    path.write_bytes(data.replace(whole, less))
    with pytest.raises(CheckpointError, match="not all of them are there"):
        load(custom(path), TINY)


def skipped(file):
    """A pickle that is not made."""
    for _ in pickletools.genops(file):
        pass


# .safetensors


def with_header(change):
    """The bytes of a .safetensors file whose header was changed."""
    content = save(state_dict())
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


BAD_SAFETENSORS = {
    "shape larger than its bytes": lambda good: with_header(lambda h: h["head.bias"].update(shape=[10**6])),
    "offsets past the end": lambda good: with_header(lambda h: h["head.bias"].update(data_offsets=[0, 1 << 40])),
    "header no JSON": lambda good: struct.pack("<Q", 64) + b"{" + b"x" * 200,
    "header length huge": lambda good: struct.pack("<Q", 1 << 60) + good[8:],
    "header longer than the file": lambda good: struct.pack("<Q", 10**7) + good[8:],
    "cut in the data": lambda good: good[:-9],
    "longer than it says": lambda good: good + b"more",
}


@pytest.mark.parametrize("kind", BAD_SAFETENSORS)
def test_bad_safetensors_is_refused_by_name(tmp_path, kind):
    path = tmp_path / "own.safetensors"
    path.write_bytes(BAD_SAFETENSORS[kind](save(state_dict())))
    with pytest.raises(CheckpointError, match=r"own\.safetensors: .*its header"):
        tiny.read(path, TINY)


# Memory.


def repacked(source, target, change, compression=zipfile.ZIP_STORED):
    """change: what becomes of a member's bytes, by its name."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for info in old.infolist():
            new.writestr(info.filename, change(info.filename, old.read(info)))
    return target


READ = """
import tiny
from utils.families.variants import get_variant
{imports}
base = peak()
try:
    print(sum(array.nbytes for array in tiny.read(sys.argv[2], get_variant(sys.argv[1])).values()))
except ValueError as error:
    print(str(error).replace(chr(10), " "))
print(base)
"""


def read_apart(variant, path):
    """What reading a file in a process of its own gave (a size in bytes, or the error), and the memory it took."""
    code = READ.format(imports="import torch" if variant.family == "convmixer" else "")
    run = [sys.executable, "-c", f"{memory.PEAK}\n{code}\nprint(peak())", variant.name, str(path)]
    paths = os.pathsep.join((str(REPOSITORY), str(REPOSITORY / "tests")))
    done = subprocess.run(run, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=True)
    found, base, peak = done.stdout.splitlines()
    return found, int(peak) - int(base)


ZEROS = bytes(200 << 20)


@pytest.mark.parametrize("kind", ["member", "surplus"])
def test_zip_bomb_is_refused_without_unpacking_it_and_a_surplus_entry_stays_packed(tmp_path, kind):
    """200 MiB of zeros pack into 200 KiB; reading must not take that memory."""
    swollen = "head/bias.npy" if kind == "member" else None  # its header is right, and zeros follow
    bomb = repacked(
        tiny.GOLDEN / "mixer_tiny.npz",
        tmp_path / "bomb",
        lambda name, data: data + ZEROS if name == swollen else data,
        zipfile.ZIP_DEFLATED,
    )
    if kind == "surplus":
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (50 << 20,)})
        with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("bomb.npy", header.getvalue() + ZEROS)
    assert bomb.stat().st_size < 1 << 20
    found, taken = read_apart(TINY_MIXER, bomb)
    assert ("head/bias.npy is longer than its header says" if kind == "member" else str(17_618 * 4)) in found
    assert taken < 100 << 20


def test_compressed_pytorch_file_is_refused(tmp_path):
    source = tiny.GOLDEN / "convmixer_tiny.timm.pth.tar"
    path = repacked(source, tmp_path / "packed", lambda name, data: data, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="packed: PyTorch files are not compressed"):
        tiny.read(path, TINY)


def test_npy_header_of_unbounded_length_is_refused(tmp_path):
    """Version 2 of the format announces a header of up to 4 GiB, and NumPy reads it before it looks at it."""
    header = b"\x93NUMPY\x02\x00" + (1 << 30).to_bytes(4, "little")
    change = lambda name, data: header if name == "head/bias.npy" else data  # noqa: E731
    path = repacked(tiny.GOLDEN / "mixer_tiny.npz", tmp_path / "long", change)
    with pytest.raises(CheckpointError, match=r"version \(2, 0\)"):
        tiny.read(path, TINY_MIXER)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixer_l16_i1k", "convmixer_1536_20"])
def test_reading_a_full_size_file_takes_at_most_1_3_times_its_size(tmp_path, name):
    path = tmp_path / "big"
    synthetic.write(get_variant(name), path, 0)
    found, taken = read_apart(get_variant(name), path)
    assert int(found) == pytest.approx(path.stat().st_size, rel=1e-2)
    assert taken <= 1.3 * path.stat().st_size
