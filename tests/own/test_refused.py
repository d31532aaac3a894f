"""What is another architecture, ambiguous or hostile is refused, in the file's own names and at once."""

import io
import json
import math
import re
import struct
import time
import zipfile
from functools import partial

import msgpack
import numpy as np
import pytest
import torch

from own import definitions
from own.definitions import convmixer, flax_mixer, images, mixer, prefixed, replace, several
from own.opening import assert_computes, opened
from utils.errors import CheckpointError, ConversionError

UNITS = partial(convmixer, definitions.UNITS)
PRE_NORM = partial(mixer, definitions.PRE_NORM)


def changed(make, drop="nothing", add=None):
    """The content of a definition without the names that match, and with others of these shapes."""
    state = {key: value for key, value in make().content.items() if not re.match(drop, key)}
    return state | {key: torch.rand(shape) for key, shape in (add or {}).items()}


def batch_norm(name, size):
    return {f"{name}.{part}": (size,) for part in ("weight", "bias", "running_mean", "running_var")}


def dense(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


AXIAL = {key: shape for i in (0, 1) for name, kernel in (("0.0", (8, 1)), ("0.1", (1, 8)))
         for key, shape in dense(f"blocks.{i}.spatial.{name}", 12, 1, *kernel).items()}  # fmt: skip
VGG = dense("features.0", 8, 3, 3, 3) | dense("features.2", 12, 8, 3, 3) | dense("classifier", 5, 12)

# By what it has: the content, and what the message must name.
ANOTHER = {
    "no last norm": (lambda: changed(PRE_NORM, "last"), r"to_logits\.1|mixers\.1"),
    "BatchNorm inside MLPs": (lambda: changed(PRE_NORM, add=batch_norm("mixers.0.tokens.fn.1", 10)
        | batch_norm("mixers.1.tokens.fn.1", 10)), r"mixers\.\d\.tokens\.fn\.1"),
    "axial kernels": (lambda: changed(UNITS, r"blocks\.\d\.spatial\.0", AXIAL), r"blocks\.\d\.spatial\.0"),
    "kernels not square": (lambda: changed(UNITS, r"blocks\.\d\.spatial\.0\.weight",
        {f"blocks.{i}.spatial.0.weight": (12, 1, 8, 1) for i in (0, 1)}), r"blocks\.\d\.spatial\.0"),
    "patches not square": (lambda: changed(UNITS, r"stem\.0\.weight", {"stem.0.weight": (12, 3, 4, 2)}), r"stem\.0"),
    "stem without bias": (lambda: changed(UNITS, r"stem\.0\.bias"), r"stem\.0"),
    "Mixer's stem without bias": (lambda: changed(PRE_NORM, r"to_patches\.0\.bias"), r"to_patches\.0"),
    "MLPs without bias": (lambda: changed(PRE_NORM, r"mixers\.\d\.tokens\.fn\.\d\.bias"), r"mixers\.\d\.tokens\.fn"),
    "norms without statistics": (lambda: changed(UNITS, r".*running"), r"stem\.2|\.2\b"),
    "norms without scale": (lambda: changed(UNITS, r"(stem|.*spatial)\.2\.(weight|bias)"), r"stem\.2|\.2\b"),
    "LayerScale": (lambda: changed(PRE_NORM, add={f"mixers.{i}.gamma": (12,) for i in (0, 1)}), r"mixers\.\d\.gamma"),
    "positions": (lambda: changed(PRE_NORM, add={"pos_embed": (1, 16, 12)}), "pos_embed"),
    "squeeze and excitation": (lambda: changed(UNITS, add=dense("blocks.0.se.fc1", 3, 12, 1, 1)
        | dense("blocks.0.se.fc2", 12, 3, 1, 1)), r"blocks\.0\.se"),
    "third norm in a block": (lambda: changed(UNITS, add=batch_norm("blocks.1.last", 12)), r"blocks\.1\.last"),
    "tied layers": (lambda: changed(PRE_NORM, r"mixers\.1\.tokens"), r"mixers\.1"),
    "blocks of two sizes": (lambda: changed(PRE_NORM, r"mixers\.1\.channels\.fn",
        dense("mixers.1.channels.fn.0", 24, 12) | dense("mixers.1.channels.fn.3", 12, 24)), r"mixers\.1\.channels"),
    "kernels of two sizes": (lambda: changed(UNITS, r"blocks\.1\.spatial\.0\.weight",
        {"blocks.1.spatial.0.weight": (12, 1, 5, 5)}), r"blocks\.1\.spatial"),
    "two heads": (lambda: changed(UNITS, add=dense("head_dist", 5, 12)), r"head_dist"),
    "head of two layers": (lambda: changed(UNITS, "classifier", dense("classifier.0", 30, 12)
        | dense("classifier.2", 5, 30)), r"classifier\.[02]"),
    "weight normalisation": (lambda: changed(UNITS, r"classifier\.weight",
        {"classifier.weight_g": (5, 1), "classifier.weight_v": (5, 12)}), r"classifier\.weight_[gv]"),
    "dense patches": (lambda: changed(PRE_NORM, "to_patches", dense("to_patches.1", 12, 48)), r"to_patches\.1"),
    "tokens that are no square": (lambda: changed(PRE_NORM, r"mixers\.\d\.tokens\.fn", {
        key: shape for i in (0, 1) for key, shape in (dense(f"mixers.{i}.tokens.fn.0", 10, 15)
        | dense(f"mixers.{i}.tokens.fn.3", 15, 10)).items()}), r"mixers\.\d\.tokens"),
    "a CNN": (lambda: {key: torch.rand(shape) for key, shape in VGG.items()}, r"features\.[02]"),
    "attention": (lambda: changed(PRE_NORM, r"mixers\.\d\.tokens\.fn", dense("mixers.0.tokens.qkv", 36, 12)
        | dense("mixers.1.tokens.qkv", 36, 12)), r"mixers\.\d\.tokens\.qkv"),
    "no tensors": (lambda: {"lr": 0.1, "args": {"dim": 12}}, ""),
    "nothing": (dict, ""),
}  # fmt: skip


def assert_refused(path, match="", seconds=5, **settings):
    """In the file's own names, and before the person waits; leaves nothing."""
    begin = time.perf_counter()
    with pytest.raises(CheckpointError, match=match) as raised:
        opened(path, **settings)
    assert time.perf_counter() - begin < seconds
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 10_000
    folder = path.parent / "exports"
    assert not folder.exists() or list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize("what", ANOTHER)
def test_another_architecture_is_refused_in_the_files_own_names(tmp_path, what, kind):
    make, names = ANOTHER[what]
    content = make()
    if kind == "safetensors" and not all(isinstance(value, torch.Tensor) for value in content.values()):
        pytest.skip("holds tensors alone")
    assert_refused(replace(UNITS(), content=content).save(tmp_path, kind), names)


@pytest.mark.parametrize("head", ["classification", "fe"])
@pytest.mark.parametrize("make", [UNITS, convmixer])
def test_head_over_a_grid_of_pooled_features_is_refused_for_features_too(tmp_path, make, head):
    name = "classifier" if make is UNITS else "7"
    content = changed(make, name, dense(name, 5, 4 * 12))
    assert_refused(replace(UNITS(), content=content).save(tmp_path, "pt"), rf"\b{name}\b", head=head)


# More than one answer.


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("keys", [("student", "teacher"), ("net_a", "net_b")])
def test_equals_are_refused_until_weights_names_one(tmp_path, keys, joined):
    for taken, key in enumerate(keys):
        own = several(UNITS, keys, taken, joined)
        path = own.save(tmp_path, "pt")
        assert_refused(path, f"(?s){keys[0]}.*{keys[1]}|{keys[1]}.*{keys[0]}")
        with pytest.raises(ConversionError, match="nobody"):
            opened(path, weights="nobody")
        assert_computes(opened(path, weights=key), own.inputs, own.outputs)


@pytest.mark.parametrize("make", [partial(convmixer, definitions.NORMS_LAST | {"norm1": "body.{}.after",
    "norm2": "body.{}.before"}), partial(mixer, definitions.SWAPPABLE)], ids=["ConvMixer", "Mixer"])  # fmt: skip
def test_two_norms_that_fit_either_way_are_refused_where_order_says_nothing(tmp_path, make):
    own = make()
    assert_refused(own.save(tmp_path, "safetensors"), r"\.(after|before|pre|mid)")
    assert_computes(opened(own.save(tmp_path, "pt")), own.inputs, own.outputs)


def test_reference_that_decides_for_neither_does_not_make_one_right(tmp_path):
    own = mixer(definitions.SWAPPABLE)
    other = images(*own.inputs.shape[1:], seed=1)
    np.savez(tmp_path / "reference.npz", inputs=other, outputs=own.outputs.astype(np.float32))
    with pytest.raises(ConversionError):
        opened(own.save(tmp_path, "safetensors"), reference=str(tmp_path / "reference.npz"))


# Hostile files.

ONE = torch.zeros(1)
MANY = 60_000


def pickled(data):
    """A PyTorch file with this pickle."""
    buffer, changed = io.BytesIO(), io.BytesIO()
    torch.save({}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(changed, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, data if info.filename.endswith("data.pkl") else old.read(info))
    return changed.getvalue()


def nested(depth, key=b"model"):
    text = b"X" + struct.pack("<I", len(key)) + key
    return pickled(b"\x80\x02" + (b"}" + text) * depth + b"}" + b"s" * depth + b".")


def cycle(*keys):
    first = content = {}
    for key in keys[:-1]:
        content[key] = content = {}
    content[keys[-1]] = first
    return first


def doubled(content):
    """2 ** 60 ways through 60 mappings."""
    for _ in range(60):
        content = {"model": content, "net": content}
    return content


def huge_head():
    count = 10**11
    head = {"classifier.weight": ONE.expand(count, 12), "classifier.bias": ONE.expand(count)}
    return UNITS().content | head


def itself_in_a_list():
    content = [ONE]
    content.append(content)
    return {"state_dict": content}


PICKLES = {
    "many entries": lambda: {f"blocks.{i}.fn.{i}.weight": ONE for i in range(MANY)},
    "many prefixes": lambda: {f"{i}.stem.0.weight": ONE for i in range(MANY)},
    "many sets": lambda: {f"model_{i}": {"weight": ONE} for i in range(MANY // 4)},
    "long names": lambda: {"x" * 10**6: ONE, "y" * 10**6: ONE},
    "long paths": lambda: {"a." * 500_000 + "weight": ONE, "a." * 500_000 + "bias": ONE},
    "long numbers": lambda: {f"{'9' * 10**6}.weight": ONE, "blocks." + "1" * 10**5 + ".bias": ONE},
    "odd names": lambda: {"": ONE, ".": ONE, "..weight": ONE, "\x00.weight": ONE, "²." + "weight": ONE, "٣.bias": ONE},
    "a mapping in itself": lambda: cycle("state_dict"),
    "mappings in each other": lambda: cycle("model", "net", "params"),
    "a list in itself": itself_in_a_list,
    "ways without number": lambda: doubled({"weight": ONE}),
    "more classes than memory": huge_head,
    "more channels than memory": lambda: UNITS().content | {"stem.0.weight": ONE.expand(12, 10**11, 4, 4)},
    "larger kernels than memory": lambda: UNITS().content
    | {f"blocks.{i}.spatial.0.weight": ONE.expand(12, 1, 10**6, 10**6) for i in (0, 1)},
    "more tokens than memory": lambda: PRE_NORM().content
    | {f"mixers.{i}.tokens.fn.{j}.weight": ONE.expand(*shape) for i in (0, 1)
       for j, shape in ((0, (10, 10**12)), (3, (10**12, 10)))}
    | {f"mixers.{i}.tokens.fn.3.bias": ONE.expand(10**12) for i in (0, 1)},
    "no numbers at all": lambda: {key: value[:0] if value.ndim else value for key, value in UNITS().content.items()},
    "numbers as keys": lambda: {1: {2: ONE}, None: ONE, (1, 2): ONE},
}  # fmt: skip


@pytest.mark.parametrize("what", PICKLES)
def test_hostile_pytorch_file_is_refused_at_once(tmp_path, what):
    assert_refused(replace(UNITS(), content=PICKLES[what]()).save(tmp_path, "pt"))


@pytest.mark.parametrize("key", [b"model", b"state_dict", b"a", b"backbone"])
def test_deep_mappings_are_refused_at_once(tmp_path, key):
    (tmp_path / "own.pt").write_bytes(nested(100_000, key))
    assert_refused(tmp_path / "own.pt")


def test_what_is_beside_a_model_costs_neither_time_nor_words(tmp_path):
    own = convmixer(wrap=prefixed("net.", **{f"junk.{i}.weight": ONE for i in range(MANY)}))
    content = {"state_dict": own.content}
    content["itself"] = content
    path = replace(own, content=content).save(tmp_path, "pt")
    begin = time.perf_counter()
    conversion = opened(path, **own.settings)
    assert time.perf_counter() - begin < 5
    assert_computes(conversion, own.inputs, own.outputs)
    assert len("".join(conversion.notes)) < 10_000


# Headers that lie.


def safetensors(entries, data=b""):
    header = json.dumps({name: {"dtype": "F32", **entry} for name, entry in entries.items()}).encode()
    return struct.pack("<Q", len(header)) + header + data


EMPTY = {"shape": [0], "data_offsets": [0, 0]}
SAFETENSORS = {
    "many entries": lambda: safetensors({f"blocks.{i}.weight": dict(EMPTY) for i in range(MANY)}),
    "a shape that is not there": lambda: safetensors({"head.weight": {"shape": [10**6] * 2, "data_offsets": [0, 4]}},
        bytes(4)),
    "a shape past every number": lambda: safetensors({"head.weight": {"shape": [2**62, 4], "data_offsets": [0, 0]}}),
    "a size of nothing": lambda: safetensors({"head.weight": {"shape": [0, 10**12], "data_offsets": [0, 0]}}),
    "long names": lambda: safetensors({"a." * 500_000 + "w": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "no entries": lambda: safetensors({}),
}  # fmt: skip


@pytest.mark.parametrize("what", SAFETENSORS)
def test_hostile_safetensors_file_is_refused_at_once(tmp_path, what):
    (tmp_path / "own.safetensors").write_bytes(SAFETENSORS[what]())
    assert_refused(tmp_path / "own.safetensors")


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("archive_lies", [False, True], ids=["header", "header and directory"])
@pytest.mark.parametrize(
    "claims",
    [
        {"head/kernel": (12, 10**11), "head/bias": (10**11,)},
        {"stem/kernel": (4, 4, 10**11, 12)},
        {"head/bias": (10**12,)},
        {"head/bias": (2**62, 4)},
        {"head/bias": (-1,)},
    ],
)
def test_npz_that_claims_more_than_it_has_is_refused_at_once(tmp_path, claims, archive_lies, packing):
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w", packing) as archive:
        for key, array in flax_mixer().content.items():
            header, shape = io.BytesIO(), claims.get(key, array.shape)
            np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
            archive.writestr(f"{key}.npy", header.getvalue() + array.tobytes())
            if archive_lies:  # the directory is written at the end
                size = len(header.getvalue()) + 4 * math.prod(shape)
                archive.getinfo(f"{key}.npy").file_size = min(max(size, 0), 2**62)
    assert_refused(path)


def ext(*content):
    return msgpack.ExtType(1, msgpack.packb(content[0] if len(content) == 1 else content))


def chunked(shape, *chunks):
    return {
        "__msgpack_chunked_array__": True,
        "shape": shape,
        "chunks": {str(i): each for i, each in enumerate(chunks)},
    }


FIVE = ext((5,), "float32", bytes(20))
BIASES = {
    "a shape that is not there": ext((10**12,), "float32", bytes(20)),
    "a shape past every number": ext((2**62, 4), "float32", bytes(20)),
    "a shape below zero": ext((-1,), "float32", bytes(20)),
    "a shape of text": ext(("5",), "float32", bytes(20)),
    "a shape of fractions": ext((5.0,), "float32", bytes(20)),
    "no shape": ext(None, "float32", bytes(20)),
    "a shape with more sides than NumPy has": ext((1,) * 100, "float32", bytes(4)),
    "more bytes than its shape": ext((5,), "float32", bytes(24)),
    "bytes as text": ext((5,), "float32", "x" * 20),
    **{f"dtype {dtype!r}": ext((5,), dtype, bytes(40)) for dtype in ("object", "O", "S8", "V8", "U2", "datetime64[s]",
        "complex64", "f4,f4", "float128", "nonsense", "", "x" * 10**6, b"\xff\xfe", 7, None, [["a", "f4"]])},
    "an empty array": msgpack.ExtType(1, b""),
    "an array cut short": msgpack.ExtType(1, FIVE.data[:-3]),
    "an array with more behind it": msgpack.ExtType(1, FIVE.data + b"\x01"),
    "an array of one": ext(7),
    "deep mappings in an array": msgpack.ExtType(1, b"\x91" * 100_000 + b"\x90"),
    "an unknown extension": msgpack.ExtType(42, b"x"),
    "a complex number": msgpack.ExtType(2, msgpack.packb((1.0, 2.0))),
    "a scalar": msgpack.ExtType(3, msgpack.packb(((), "float32", bytes(4)))),
    "no chunks": chunked({"0": 5}),
    "fewer chunks": chunked({"0": 10}, FIVE),
    "more chunks": chunked({"0": 5}, FIVE, FIVE),
    "a larger shape than its chunks": chunked({"0": 10**12}, FIVE),
    "chunks of two dtypes": chunked({"0": 10}, FIVE, ext((5,), "int64", bytes(40))),
    "chunks that are none": chunked({"0": 5}, 7),
    "chunks with a gap": chunked({"0": 10}, FIVE) | {"chunks": {"0": FIVE, "2": FIVE}},
    "chunks as a list": chunked({"0": 5}) | {"chunks": [FIVE]},
    "chunks in chunks": chunked({"0": 5}, chunked({"0": 5}, FIVE)),
    "a chunked shape of text": chunked({"0": "5"}, FIVE),
    "a chunked shape as a number": chunked(5, FIVE),
    "chunks without a shape": {"__msgpack_chunked_array__": True, "chunks": {"0": FIVE}},
    "text": "weights",
    "nothing": None,
    "a list": [1.0] * 5,
}  # fmt: skip


def with_bias(bias):
    parameters = definitions.tree(flax_mixer().content)
    parameters["head"]["bias"] = bias
    return msgpack.packb({"params": parameters}, default=definitions.serialization._msgpack_ext_pack, strict_types=True)


@pytest.mark.parametrize("what", BIASES)
def test_array_that_a_msgpack_file_lies_about_is_refused_at_once(tmp_path, what):
    (tmp_path / "checkpoint_12").write_bytes(with_bias(BIASES[what]))
    assert_refused(tmp_path / "checkpoint_12")


def test_honest_array_in_their_place_is_taken(tmp_path):
    for bias in (FIVE, chunked({"0": 5}, ext((2,), "float32", bytes(8)), ext((3,), "float32", bytes(12)))):
        (tmp_path / "checkpoint_12").write_bytes(with_bias(bias))
        assert opened(tmp_path / "checkpoint_12").variant.architecture.classes == 5


PARAMS = b"\x81\xa6params"
MESSAGES = {
    "cut in an array": lambda good: good[:-9],
    "cut in the middle": lambda good: good[: len(good) // 2],
    "cut after a byte": lambda good: good[:1],
    "more behind it": lambda good: good + good,
    "bytes past the end": lambda good: PARAMS + b"\xc6\xff\xff\xff\xff",
    "a list past the end": lambda good: PARAMS + b"\xdd\xff\xff\xff\xff",
    "a mapping past the end": lambda good: b"\xdf\xff\xff\xff\xff",
    "an extension past the end": lambda good: PARAMS + b"\xc9\xff\xff\xff\xff\x01",
    "a byte that means nothing": lambda good: PARAMS + b"\xc1",
    "a key that is no text": lambda good: PARAMS + b"\x81\xa2\xff\xfe\xc0",
    "keys of numbers": lambda good: msgpack.packb({1: {2: FIVE}}),
    "keys of lists": lambda good: PARAMS + b"\x81\x91\x01\xc0",
    "deep mappings": lambda good: b"\x81\xa1a" * 100_000 + b"\x80",
    "deep lists": lambda good: PARAMS + b"\x91" * 100_000 + b"\x90",
    "many entries": lambda good: msgpack.packb({"params": {f"Dense_{i}": {"kernel": FIVE} for i in range(MANY)}}),
    "long names": lambda good: msgpack.packb({"params": {"a/" * 500_000: FIVE}}),
    "no parameters": lambda good: msgpack.packb({"0": {}, "1": {}, "2": 12}),
    "parameters of the optimiser alone": lambda good: definitions.serialization.to_bytes(
        {"opt_state": {"0": {"trace": definitions.tree(flax_mixer().content)}}}),
}  # fmt: skip


@pytest.mark.parametrize("what", MESSAGES)
def test_hostile_msgpack_file_is_refused_at_once(tmp_path, what):
    good = flax_mixer(definitions.flax_tuple).content
    (tmp_path / "checkpoint_12").write_bytes(MESSAGES[what](good))
    assert_refused(tmp_path / "checkpoint_12")
