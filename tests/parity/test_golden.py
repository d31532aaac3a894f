"""Golden inputs and outputs: the same bits everywhere, small, sensitive to faults, and read with distrust."""

import hashlib
import io
import zipfile

import numpy as np
import pytest
import tiny

from utils.errors import PackagingError
from utils.parity.golden import GOLDEN, MAX_CHANNELS, Golden, golden_bytes, make_golden, read_golden, write_golden


def pooled(inputs, units=10):
    """Stands for a source model: sums that depend on where each pixel is."""
    _, height, width, _ = inputs.shape
    weights = np.sin(np.arange(height * width * 3 * units, dtype=np.float32)).reshape(-1, units)
    return (inputs.reshape(len(inputs), -1) @ weights / height).astype(np.float32)


@pytest.fixture
def golden():
    photographs = {f"photograph {i}": np.full((48, 64, 3), i - 1.5, np.float32) for i in range(4)}
    return make_golden(pooled, 48, 64, 0, photographs)


def packed(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def test_inputs_are_the_same_bits_on_every_machine():
    """The digest was computed once; no library's random numbers or interpolation are between it and the patterns."""
    coarse = (np.arange(2 * 5 * 4 * 3).reshape(2, 5, 4, 3) * 7 % 223 - 111).astype(np.int8)
    fine = (np.arange(3 * 7 * 3).reshape(3, 7, 3) % 31 - 15).astype(np.int8)
    inputs = Golden(coarse, fine, np.array([13, 11], np.int32), np.zeros((2, 1), np.float32)).inputs
    assert inputs.shape == (2, 13, 11, 3)
    assert inputs[1, 12, 10].tolist() == [(int(coarse[1, 4, 3, c]) + int(fine[0, 3, c])) / 32 for c in range(3)]
    digest = hashlib.sha256(inputs.astype("<f4").tobytes()).hexdigest()
    assert digest == "7e74488ba87bd56608c853969bb72203293e70d1607bb5857d9218250de936b9"


def test_what_is_read_is_what_was_written(golden, tmp_path):
    path = write_golden(tmp_path, golden)
    assert path == tmp_path / GOLDEN
    read = read_golden(path.read_bytes(), "here")
    np.testing.assert_array_equal(read.inputs, golden.inputs)
    np.testing.assert_array_equal(read.outputs, golden.outputs)
    assert tiny.relative_error(read.outputs, pooled(read.inputs)) <= 1e-5  # sums again: perhaps in another order
    assert golden_bytes(read) == golden_bytes(golden)


def test_two_photographs_and_noise_are_normalised_float32(golden):
    assert golden.inputs.shape == (3, 48, 64, 3)
    assert golden.inputs.dtype == np.float32
    assert [round(float(image.mean()), 1) for image in golden.inputs] == [-1.5, -0.5, 0]
    assert golden.inputs[2].std() > 1
    assert np.abs(golden.inputs).max() <= 4


@pytest.mark.parametrize("channels", [1, 2, 10, MAX_CHANNELS])
def test_images_of_any_number_of_channels_are_read_back_each_channel_its_own(channels):
    photographs = {"flat": np.zeros((16, 16, channels), np.float32)}
    mean = lambda inputs: inputs.mean(axis=(1, 2)).astype(np.float32)  # noqa: E731
    golden = make_golden(mean, 16, 16, 0, photographs, channels)
    read = read_golden(golden_bytes(golden), "here")
    assert read.inputs.shape == (2, 16, 16, channels)
    np.testing.assert_allclose(read.outputs, mean(read.inputs), atol=1e-6)
    assert len(np.unique(read.inputs[1].reshape(-1, channels), axis=1).T) == channels
    with pytest.raises(PackagingError, match=f"{MAX_CHANNELS + 1:,} channels: expected {MAX_CHANNELS:,} at most"):
        make_golden(mean, 16, 16, 0, channels=MAX_CHANNELS + 1)


def test_golden_inputs_look_like_their_photographs():
    rows, columns = np.linspace(-2, 2, 96, dtype=np.float32), np.linspace(-0.5, 0.5, 128, dtype=np.float32)
    photograph = np.repeat((rows[:, None] + columns)[..., None], 3, axis=2)
    inputs = make_golden(pooled, 96, 128, 0, {"ramp": photograph}).inputs[0]
    assert np.abs(inputs - photograph).max() < 0.75  # 0.5 of fine pattern, and the steps of 32 rows and columns


def test_the_largest_classifier_takes_less_than_200_kilobytes():
    many = lambda inputs: np.random.default_rng(0).normal(size=(len(inputs), 21843)).astype(np.float32)  # noqa: E731
    golden = make_golden(many, 224, 224, 0, {str(i): np.zeros((224, 224, 3), np.float32) for i in range(3)})
    assert len(golden.inputs) == len(golden.outputs) == 2
    assert len(golden_bytes(golden)) < 200_000


@pytest.mark.parametrize("name", tiny.NAMES)
def test_swapped_height_and_width_and_a_shifted_pixel_show(name):
    from utils.families.convmixer.source import as_nhwc

    source = as_nhwc(tiny.source(name))
    golden = make_golden(source, 48, 48, 0)
    for fault in (golden.inputs.swapaxes(1, 2), np.roll(golden.inputs, 1, 2), golden.inputs[..., ::-1]):
        assert np.abs(source(np.ascontiguousarray(fault)) - golden.outputs).max() > 1e-4


@pytest.mark.parametrize(
    "source",
    [
        lambda inputs: pooled(inputs).astype(np.int32),
        lambda inputs: pooled(inputs) * np.float32("nan"),
        lambda inputs: pooled(inputs)[:1],
        lambda inputs: inputs,
    ],
    ids=["int32", "NaN", "another batch", "no vector"],
)
def test_a_source_that_gives_no_logits_is_refused(source):
    with pytest.raises(PackagingError, match="golden outputs"):
        make_golden(source, 48, 48, 0, {"a": np.zeros((48, 48, 3), np.float32)})


class Created:
    """What reads its pickle fails the test."""

    def __reduce__(self):
        return pytest.fail, ("a pickled object was created",)


def of_petabytes():
    """An array whose header claims more than there is: NumPy would ask for the memory before it looks."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 1 << 10)})
    return file.getvalue()


def replaced(data, member, content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name == member else old.read(name))
    return buffer.getvalue()


DAMAGED = {
    "petabytes": lambda data, arrays: replaced(data, "outputs.npy", of_petabytes()),
    "no archive": lambda data, arrays: b"<html>not found</html>",
    "an array more": lambda data, arrays: packed(**arrays, more=np.zeros(1)),
    "another type": lambda data, arrays: packed(**arrays | {"coarse": arrays["coarse"].astype(np.float64)}),
    "a pickle": lambda data, arrays: packed(**arrays | {"outputs": np.array([[Created()]], dtype=object)}),
    "other channels": lambda data, arrays: packed(**arrays | {"fine": arrays["fine"][..., :2]}),
    "no channels": lambda data, arrays: packed(**arrays | {name: arrays[name][..., :0] for name in ("coarse", "fine")}),
    "large images of many channels": lambda data, arrays: packed(
        **arrays
        | {name: arrays[name].repeat(40, axis=-1) for name in ("coarse", "fine")}
        | {"size": np.array([1 << 10, 1 << 10], np.int32)}
    ),
    "many images": lambda data, arrays: packed(
        **arrays
        | {"coarse": np.zeros((1000, 1, 1, 3), np.int8), "outputs": arrays["outputs"][:1].repeat(1000, axis=0)}
        | {"size": np.array([1 << 10, 1 << 10], np.int32)}
    ),
    "other counts": lambda data, arrays: packed(**arrays | {"outputs": arrays["outputs"][:1]}),
    "no outputs": lambda data, arrays: packed(**arrays | {"outputs": arrays["outputs"][:, :0]}),
    "outputs of NaN": lambda data, arrays: packed(**arrays | {"outputs": arrays["outputs"] * np.float32("nan")}),
    "a huge image": lambda data, arrays: packed(**arrays | {"size": np.array([1 << 20, 1 << 20], np.int32)}),
    "a negative image": lambda data, arrays: packed(**arrays | {"size": np.array([-1, -1], np.int32)}),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_golden_data_are_an_error_that_names_the_file(golden, kind):
    with pytest.raises(PackagingError, match=r"golden\.npz.*Get the file again"):
        read_golden(DAMAGED[kind](golden_bytes(golden), vars(golden)), "golden.npz")
