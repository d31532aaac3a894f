"""Both layouts read to the same arrays; every kind of bad file is refused by name, and none is executed."""

import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import memory
import numpy as np
import pytest
import torch
from own_checkpoints import assert_same, flax, saved, state_dict

from utils.checkpoints import synthetic
from utils.checkpoints.loading import read, resolve
from utils.errors import CheckpointError, ParameterError
from utils.families import FAMILIES
from utils.families.variants import get_variant

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = REPOSITORY / "tests" / "data" / "golden"
TINY = get_variant("convmixer_tiny")
TINY_MIXER = get_variant("mixer_tiny")


def saved_npz(tmp_path, arrays):
    np.savez(tmp_path / "file.npz", **arrays)
    return tmp_path / "file.npz"


# Both layouts, and what trainers wrap around them.


@pytest.mark.parametrize("name", ["convmixer_tiny", "convmixer_tiny_relu"])
def test_both_key_layouts_read_to_the_same_arrays(name):
    timm = read(GOLDEN / f"{name}.timm.pth.tar", get_variant(name))
    sequential = read(GOLDEN / f"{name}.sequential.pth.tar", get_variant(name))
    assert {key: array.shape for key, array in timm.items()} == get_variant(name).shapes
    assert_same(timm, {key: value.numpy() for key, value in state_dict(name).items()})
    assert_same(sequential, timm)


def test_mixer_reads_to_its_flat_keys():
    assert_same(read(GOLDEN / "mixer_tiny.npz", TINY_MIXER), flax())


def test_head_is_dropped_only_by_name(tmp_path):
    without = {key: value for key, value in flax().items() if not key.startswith("head")}
    path = saved_npz(tmp_path, without)
    with pytest.raises(CheckpointError, match="2 missing: head/kernel; head/bias"):
        read(path, TINY_MIXER)
    assert read(path, TINY_MIXER, drop=FAMILIES["mixer"].head_keys).keys() == without.keys()
    # A file with the head serves as well, and the head is left out.
    assert read(GOLDEN / "mixer_tiny.npz", TINY_MIXER, drop=FAMILIES["mixer"].head_keys).keys() == without.keys()
    features = read(GOLDEN / "convmixer_tiny.timm.pth.tar", TINY, drop=FAMILIES["convmixer"].head_keys)
    assert TINY.shapes.keys() - features.keys() == set(FAMILIES["convmixer"].head_keys)
    with pytest.raises(ParameterError, match=r"drop names keys .* head\.kernel"):
        read(path, TINY_MIXER, drop=("head.kernel",))


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
    "surplus by number": (lambda: torch.load(GOLDEN / "convmixer_tiny.sequential.pth.tar", weights_only=True)
                          | {"9.weight": torch.zeros(1)}, r"1 surplus: 9\.weight"),
    "misspelt": (lambda: {k.replace("head.b", "classifier.b"): v for k, v in state_dict().items()},
                 r"1 surplus: classifier\.bias"),
    "shape": (lambda: changed("head.weight", torch.zeros(11, 32)),
              r"1 misshapen: head\.weight: expected \[10, 32\], found \[11, 32\]"),
    "expanded": (lambda: changed("stem.0.bias", torch.zeros(1).expand(10**6, 10**6)),
                 r"misshapen: stem\.0\.bias: expected \[32\], found \[1000000, 1000000\]"),
    "integers": (lambda: changed("stem.0.weight", torch.Tensor.int),
                 r"wrongly typed: stem\.0\.weight: expected float32, found int32"),
    "too large": (lambda: changed("head.bias", lambda bias: bias.double() + 1e300),
                  r"(?s)head\.bias: 0 NaN and 10 inf.*float64 values are too large"),
    "counter": (lambda: changed("stem.2.num_batches_tracked", torch.Tensor.float),
                "num_batches_tracked: expected int64, found float32"),
    "list": (lambda: changed("stem.0.bias", [1.0, 2.0]), "expected float32, found list, no tensor"),
    "sparse": (lambda: changed("head.weight", torch.Tensor.to_sparse), "sparse"),
    "nan": (lambda: changed("blocks.2.3.weight", poisoned(float("nan"))),
            r"not finite: blocks\.2\.3\.weight: 1 NaN and 0 infinite of 32"),
    "infinite": (lambda: changed("head.bias", poisoned(float("-inf"))), r"head\.bias: 0 NaN and 1 infinite"),
    "variance": (lambda: changed("stem.2.running_var", poisoned(-1.0)),
                 r"negative variance: stem\.2\.running_var"),
    "half parallel": (lambda: {("module." if k < "c" else "") + k: v for k, v in state_dict().items()},
                      r"surplus: module\.blocks"),
    "half compiled": (lambda: {("model." if k < "h" else "") + k: v for k, v in state_dict().items()},
                      r"surplus: .*model\.blocks"),
    "empty": (dict, "51 missing: .*and 41 more"),
    "no mapping": (lambda: [torch.zeros(3)], "expected a state dict .* found list"),
    "numbers as keys": (lambda: {0: torch.zeros(3)}, "expected a state dict"),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG_TENSORS)
def test_wrong_entry_of_a_pytorch_file_is_named(tmp_path, fault):
    content, message = WRONG_TENSORS[fault]
    path = saved(tmp_path, content())
    with pytest.raises(CheckpointError, match=message) as raised:
        read(path, TINY)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("head/kernel", lambda a: a.T.copy(), r"misshapen: head/kernel: expected \[32, 10\], found \[10, 32\]"),
        ("head/bias", lambda a: a.astype(np.int64), "wrongly typed: head/bias: expected float32, found int64"),
        ("head/bias", lambda a: a.astype(">f4"), "found >f4"),
        ("stem/bias", lambda a: np.where(np.arange(a.size) == 3, np.float32("nan"), a), "not finite: stem/bias: 1 NaN"),
    ],
)
def test_wrong_entry_of_an_npz_is_named(tmp_path, key, change, message):
    path = saved_npz(tmp_path, flax() | {key: change(flax()[key])})
    with pytest.raises(CheckpointError, match=message):
        read(path, TINY_MIXER)


def test_file_of_another_variant_is_recognised():
    with pytest.raises(CheckpointError, match="looks like convmixer_tiny_relu:"):
        read(GOLDEN / "convmixer_tiny_relu.sequential.pth.tar", TINY)
    with pytest.raises(CheckpointError, match="looks like mixer_tiny:"):
        read(GOLDEN / "mixer_tiny.npz", get_variant("mixer_s8_gsam"))


def test_file_of_the_other_family_is_recognised():
    with pytest.raises(CheckpointError, match=r"NumPy \(\.npz\) file.*conversion_mlpmixer\.ipynb"):
        read(GOLDEN / "mixer_tiny.npz", TINY)
    with pytest.raises(CheckpointError, match=r"PyTorch file.*conversion_convmixer\.ipynb"):
        read(GOLDEN / "convmixer_tiny.timm.pth.tar", TINY_MIXER)


# Files that are no checkpoints at all. For either family they are refused, and none is run.


class Touch:
    """Unpickled, it creates the file `path`."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def bad_files(tmp_path):
    whole = {".pth.tar": GOLDEN / "convmixer_tiny.timm.pth.tar", ".npz": GOLDEN / "mixer_tiny.npz"}
    for suffix, path in whole.items():
        content = path.read_bytes()
        for share in (0.02, 0.5, 0.99):
            (tmp_path / f"truncated {share}{suffix}").write_bytes(content[: int(len(content) * share)])
        damaged = bytearray(content)
        damaged[len(content) // 2] ^= 0xFF
        (tmp_path / f"one byte flipped{suffix}").write_bytes(damaged)
    (tmp_path / "empty").touch()
    (tmp_path / "page.html").write_text("\n<!DOCTYPE html><html><body>Not Found</body></html>")
    (tmp_path / "text").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "plain pickle").write_bytes(pickle.dumps({"stem.0.weight": [1.0]}))
    (tmp_path / "pickle bomb").write_bytes(pickle.dumps(Touch(tmp_path / "executed")))
    torch.save({"state_dict": state_dict(), "args": Touch(tmp_path / "executed")}, tmp_path / "zip bomb object")
    torch.save(
        {"state_dict": state_dict(), "args": Touch(tmp_path / "executed")},
        tmp_path / "legacy bomb object",
        _use_new_zipfile_serialization=False,
    )
    np.savez(
        tmp_path / "pickled array.npz",
        **flax() | {"head/bias": np.array([Touch(tmp_path / "executed")])},
    )
    with zipfile.ZipFile(tmp_path / "other archive.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    return sorted(tmp_path.iterdir())


def test_files_that_are_no_checkpoints_are_refused_and_never_executed(tmp_path):
    for path in [*bad_files(tmp_path), tmp_path / "absent"]:
        for variant in (TINY, TINY_MIXER):
            with pytest.raises(CheckpointError) as raised:
                read(path, variant)
            assert str(path) in str(raised.value), path.name
            assert not (tmp_path / "executed").exists(), f"{path.name} was executed"
    # The bombs are live: a careless reader would have been hit.
    pickle.loads((tmp_path / "pickle bomb").read_bytes()).close()
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "this is empty"),
        ("page.html", "this is a web page"),
        ("truncated 0.5.pth.tar", "cut short"),
        ("plain pickle", "bare Python pickle"),
        ("zip bomb object", r"holds Python objects \(_?io\.open\).*Save the state dict alone"),
        ("folder", "found a folder"),
        ("pipe", "found a device or pipe"),
        ("one byte flipped.pth.tar", "damaged"),
        ("other archive.zip", r"readme\.txt"),
    ],
)
def test_refusal_says_what_the_file_is(tmp_path, name, message):
    bad_files(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / name, TINY)


def test_unreadable_file_is_refused_by_name(tmp_path, monkeypatch):
    # Not by chmod: the superuser, as whom containers run tests, may read everything.
    path = saved(tmp_path, state_dict())

    def denied(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(CheckpointError, match=r"own\.pth\.tar: the file cannot be read: Permission denied"):
        read(path, TINY)


def repacked(source, target, change=lambda name, data: [(name, data)], compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for info in old.infolist():
            for name, data in change(info.filename, old.read(info)):
                new.writestr(name, data)
    return target


def npy(shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


ZEROS = bytes(200 << 20)


def peak_of(code, *arguments):
    """Runs Python code in a process of its own; returns what it printed and its peak memory in bytes."""
    run = [sys.executable, "-c", f"{memory.PEAK}\n{code}\nprint(peak())", *map(str, arguments)]
    result = subprocess.run(run, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    *printed, peak = result.stdout.splitlines()
    return printed, int(peak)


READ = """
from utils.checkpoints.loading import read
from utils.families.variants import get_variant
variant = get_variant(sys.argv[1])
{imports}
base = peak()
try:
    arrays = read(sys.argv[2], variant)
    print(sum(array.nbytes for array in arrays.values()))
except ValueError as error:
    print(str(error).replace(chr(10), " "))
print(base)
"""


@pytest.mark.parametrize("kind", ["member", "surplus", "pytorch"])
def test_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, kind):
    """200 MiB of zeros pack into 200 KiB; reading must not take that memory, and a surplus entry stays packed."""
    bomb = tmp_path / "bomb"
    source, swollen = {
        "pytorch": (GOLDEN / "convmixer_tiny.timm.pth.tar", "convmixer_tiny.timm.pth/data/0"),
        "surplus": (GOLDEN / "mixer_tiny.npz", "none"),
        "member": (GOLDEN / "mixer_tiny.npz", "head/bias.npy"),  # its header is right, and zeros follow
    }[kind]
    packed = zipfile.ZIP_DEFLATED
    repacked(source, bomb, lambda name, data: [(name, data + ZEROS if name == swollen else data)], packed)
    if kind == "surplus":
        with zipfile.ZipFile(bomb, "a", packed) as archive:
            archive.writestr("bomb.npy", npy((50 << 20,)) + ZEROS)
    with zipfile.ZipFile(bomb) as archive:
        assert sum(member.file_size for member in archive.infolist()) > len(ZEROS)
    assert bomb.stat().st_size < 1 << 20
    variant = TINY.name if kind == "pytorch" else TINY_MIXER.name
    (message, base), peak = peak_of(READ.format(imports="import torch" if kind == "pytorch" else ""), variant, bomb)
    wanted = {"member": "unpacked, it would take", "surplus": str(17_618 * 4), "pytorch": "not compressed"}[kind]
    assert wanted in message
    assert peak - int(base) < 100 << 20


def test_pytorch_file_that_declares_too_much_is_refused(tmp_path):
    heavy = tmp_path / "heavy"
    with zipfile.ZipFile(heavy, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
        archive.infolist()[0].file_size = 4 << 30  # what the directory will say
    with pytest.raises(CheckpointError, match=r"would take 4,294,967,296 bytes, and this variant needs 33,888"):
        read(heavy, TINY)


def test_npy_header_of_unbounded_length_is_refused(tmp_path):
    """Version 2 of the format announces a header of up to 4 GiB, and NumPy reads it before it looks at it."""
    header = b"\x93NUMPY\x02\x00" + (1 << 30).to_bytes(4, "little")
    path = repacked(GOLDEN / "mixer_tiny.npz", tmp_path / "long",
                    lambda name, data: [(name, header if name == "head/bias.npy" else data)])  # fmt: skip
    with pytest.raises(CheckpointError, match=r"version \(2, 0\)"):
        read(path, TINY_MIXER)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixer_l16_i1k", "convmixer_1536_20"])
def test_reading_a_full_size_file_takes_at_most_1_3_times_its_size(tmp_path, name):
    variant = get_variant(name)
    path = tmp_path / "big"
    synthetic.write(variant, path, 0)
    (read, base), peak = peak_of(READ.format(imports="import torch" if "conv" in name else ""), name, path)
    assert int(read) == pytest.approx(path.stat().st_size, rel=1e-2)
    assert peak - int(base) <= 1.3 * path.stat().st_size


# From the notebook's parameter to a file.


@pytest.mark.parametrize("name", ["convmixer_tiny", "convmixer_tiny_relu", "mixer_tiny"])
def test_synthetic_file_is_written_once_and_again_if_it_changed(tmp_path, name):
    variant = get_variant(name)
    first = resolve(variant, "synthetic", seed=7, cache_dir=tmp_path)
    written = first.path.stat().st_mtime_ns
    assert first.weights == "synthetic"
    assert resolve(variant, "synthetic", seed=7, cache_dir=tmp_path) == first
    assert first.path.stat().st_mtime_ns == written
    first.path.write_bytes(first.path.read_bytes()[:-100])
    again = resolve(variant, "synthetic", seed=7, cache_dir=tmp_path)
    assert again == first, "the same seed gives the same bytes"
    read(again.path, variant)
    assert resolve(variant, "synthetic", seed=8, cache_dir=tmp_path).sha256 != first.sha256
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("checkpoint", "seed", "error", "message"),
    [
        *(
            (text, 0, ParameterError, 'checkpoint = .*"official", "synthetic" or the path')
            for text in ("", " ", None, 3)
        ),
        *(("synthetic", seed, ParameterError, "seed = ") for seed in (-1, 2**32, 1.5, True, "1", None)),
        ("official", 0, ParameterError, "convmixer_tiny' has no official checkpoint"),
        ("ofical", 0, CheckpointError, 'ofical: there is no such file.*"official", "synthetic"'),
    ],
)
def test_senseless_checkpoint_or_seed_is_refused(tmp_path, checkpoint, seed, error, message):
    with pytest.raises(error, match=message):
        resolve(TINY, checkpoint, seed=seed, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())
