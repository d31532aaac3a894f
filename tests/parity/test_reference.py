"""A maker's own answers: what they prove, which reading of the tensors they name, and files that are none."""

import functools
import io
import zipfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tiny
import torch
from makers import OwnConvMixer, convmixer, mixer, photographs_of
from PIL import Image
from snippets import snippets

from utils.errors import ParameterError, ParityError
from utils.families import FAMILIES
from utils.families.convmixer import ConvMixerArchitecture
from utils.families.mlp_mixer import MixerArchitecture
from utils.families.variants import Preprocessing
from utils.images.photographs import SAMPLES, pillow_preprocess
from utils.parity.comparison import compare_outputs
from utils.parity.judge import UNPROVED, verdict
from utils.parity.reference import MOST_IMAGES, judge, read_reference
from utils.parity.references import References

CIFAR = ConvMixerArchitecture(32, 2, 5, 2, "gelu", 10)
GREY = ConvMixerArchitecture(24, 2, 4, 4, "relu", 24, channels=1)
TIMM = MixerArchitecture(4, 24, 2, 16, 32, 7, image_size=32, layer_norm_epsilon=1e-5, activation="gelu")
FLAX = replace(TIMM, layer_norm_epsilon=1e-6, activation="gelu_tanh")
MAKERS = {ConvMixerArchitecture: ("convmixer", convmixer), MixerArchitecture: ("mixer", mixer)}
PREPARED = Preprocessing(36, 32, (120.0, 110.0, 100.0), (60.0, 61.0, 62.0))


@functools.cache
def weights(architecture):
    family, _ = MAKERS[type(architecture)]
    return dict(FAMILIES[family].synthetic.arrays(architecture, 0))


def made(trained, size=32, count=3, **changes):
    """What the maker's code gives for a few images of noise."""
    _, run = MAKERS[type(trained)]
    inputs = np.random.default_rng(1).standard_normal((count, size, size, trained.channels), dtype=np.float32)
    return inputs, run(trained, weights(trained), inputs, **changes)


def saved(folder, **arrays):
    path = folder / "reference.npz"
    np.savez(path, **arrays)
    return path


def read(path, architecture, *outputs, size=32, **options):
    """The file, of which logits or features are expected."""
    width = getattr(architecture, "dim", 0) or getattr(architecture, "hidden_dim", 0)
    units = {"logits": architecture.classes, "features": width}
    return read_reference(path, architecture, {name: units[name] for name in outputs or ("logits",)}, size, **options)


def judged(reference, architecture, trained=None, preprocessing=PREPARED):
    """The checkpoint of `trained`, read as `architecture`."""
    family, _ = MAKERS[type(architecture)]
    models = FAMILIES[family].models
    return judge(
        reference,
        architecture,
        lambda reading: models.build(reading, weights(trained or architecture), reference.head),
        References(repr(architecture)),
        lambda image: pillow_preprocess(Image.fromarray(image), preprocessing),
        getattr(models, "repadded", None),
    )


# --- what is proved


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "trained", [CIFAR, GREY, TIMM, *map(tiny.slow, (replace(CIFAR, activation="gelu_tanh"), FLAX))]
)
def test_the_right_reading_is_proved(trained, dtype, tmp_path):
    inputs, made_outputs = made(trained, dtype=dtype)
    reference = read(saved(tmp_path, inputs=inputs, outputs=made_outputs["logits"]), trained)
    found = judged(reference, trained)
    found.require()
    assert found.record == {
        "sha256": reference.sha256,
        "verdict": "proved",
        "inputs": 3,
        "error": found.outputs.figure,
    }
    assert 0 < found.outputs.figure < 3e-6
    assert not found.readings
    assert not found.notices


@pytest.mark.parametrize("name", [*tiny.NAMES, "mixer_tiny"])
def test_the_authors_own_code_proves_the_authors_checkpoints(name, tmp_path):
    upstream, architecture = tiny.expected(name), tiny.architecture(name)
    arrays = tiny.mixer_weights() if name == "mixer_tiny" else tiny.weights(name)
    models = FAMILIES[tiny.get_variant(name).family].models
    path = saved(tmp_path, inputs=upstream["inputs"], outputs=upstream["logits"])
    reference = read(path, architecture, size=48)
    found = judge(reference, architecture, lambda a: models.build(a, arrays, "classification"), References(name), None)
    assert found.record["verdict"] == "proved"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convmixer_768_32", "mixer_b16_i1k"])
def test_at_full_size_float32_is_proved_and_tf32_is_not(name, tmp_path):
    variant = tiny.get_variant(name)
    inputs, outputs = made(variant.architecture, size=224, count=2)
    reference = read(saved(tmp_path, inputs=inputs, outputs=outputs["logits"]), variant.architecture, size=224)
    assert judged(reference, variant.architecture).record["verdict"] == "proved"
    _, outputs = made(variant.architecture, size=224, count=2, tf32=True)
    rounded = replace(reference, answers=replace(reference.answers, outputs=outputs["logits"]))
    with mock.patch("utils.parity.reference._readings", return_value=()):  # for want of minutes
        assert judged(rounded, variant.architecture).record["verdict"] == "not proved"


# What the documentation says, run on models that are no part of `utils` or whose own framework is used.
(PYTORCH, _), (FLAX_LINES, PHOTOGRAPHS) = (
    snippets("own-model.md", heading) for heading in ("From a notebook of your own", "Prove it with `reference`")
)


def test_the_lines_for_pytorch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preprocessing = Preprocessing(36, 32, *([127.5] * 3 for _ in range(2)))
    transform = lambda image: torch.from_numpy(prepared_by_maker([image], preprocessing)[0]).permute(2, 0, 1)  # noqa: E731
    known = {"model": OwnConvMixer(CIFAR, weights(CIFAR)), "transform": transform, "Image": Image}
    exec(PYTORCH + PHOTOGRAPHS, known | {"paths": sorted(SAMPLES.glob("*.jpg"))})  # noqa: S102
    found = judged(read("reference.npz", CIFAR), CIFAR, preprocessing=preprocessing)
    assert (found.record["verdict"], found.record["image_verdict"]) == ("proved", "proved")


@pytest.mark.slow
def test_the_lines_for_flax(tmp_path, monkeypatch):
    from flax.traverse_util import unflatten_dict

    from utils.families.mlp_mixer.source import build

    monkeypatch.chdir(tmp_path)
    params = unflatten_dict(weights(FLAX), sep="/")
    exec(FLAX_LINES.replace("224", "32"), {"model": build(FLAX), "params": params})  # noqa: S102
    assert judged(read("reference.npz", FLAX), FLAX).record["verdict"] == "proved"


WRONG = [
    (CIFAR, {"activation": "relu"}, "wrong"),
    (CIFAR, {"activation": "gelu_tanh"}, "not proved"),
    (CIFAR, {"batch_norm_epsilon": 1e-3}, "not proved"),
    (CIFAR, {"batch_norm_epsilon": 1e-6}, "not proved"),
    tiny.slow(TIMM, {"activation": "gelu_tanh", "layer_norm_epsilon": 1e-6}, "not proved"),
    tiny.slow(TIMM, {"layer_norm_epsilon": 1e-6}, "not proved"),
    tiny.slow(FLAX, {"activation": "relu"}, "wrong"),
]


@pytest.mark.parametrize(("trained", "misread", "expected"), WRONG)
def test_another_reading_is_not_proved_and_the_right_one_comes_nearest(trained, misread, expected, tmp_path):
    inputs, outputs = made(trained)
    architecture = replace(trained, **misread)
    reference = read(saved(tmp_path, inputs=inputs, outputs=outputs["logits"]), architecture)
    found = judged(reference, architecture, trained)
    assert found.record["verdict"] == expected
    nearest, epsilon = found.readings[0], getattr(trained, trained.EPSILON)
    assert (nearest.activation, nearest.epsilon) == (trained.activation, epsilon)
    assert nearest.error < found.outputs.figure / 10
    (current,) = [each for each in found.readings if each.current]
    assert current.error == pytest.approx(found.outputs.figure)
    assert f"activation = {trained.activation!r} and epsilon = {epsilon:g}" in found.notices[0]
    if expected == "wrong":
        with pytest.raises(ParityError, match="reference") as raised:
            found.require()
        assert found.table() in str(raised.value)
    else:
        found.require()


def test_other_padding_of_even_kernels_is_named(tmp_path):
    inputs, outputs = made(GREY, left_and_above=True)
    found = judged(read(saved(tmp_path, inputs=inputs, outputs=outputs["logits"]), GREY), GREY)
    assert found.record["verdict"] == "wrong"
    assert found.readings[0].padding == "left and above"
    assert found.readings[0].error < 1e-5
    assert len(found.readings) == 18
    with pytest.raises(ParityError, match="padding left and above"):
        found.require()


@pytest.mark.parametrize("trained", [CIFAR, TIMM])
def test_tf32_is_not_proved_and_no_reading_comes_nearer(trained, tmp_path):
    """Ten bits of mantissa in each product, as on a GPU."""
    inputs, outputs = made(trained, tf32=True)
    found = judged(read(saved(tmp_path, inputs=inputs, outputs=outputs["logits"]), trained), trained)
    assert found.record["verdict"] == "not proved"
    assert found.readings[0].error > found.outputs.figure / 2
    assert "float32 on a CPU" in found.notices[0]


def test_outputs_of_another_model_are_wrong_and_no_reading_is_advised(tmp_path):
    inputs, outputs = made(CIFAR)
    found = judged(read(saved(tmp_path, inputs=inputs, outputs=-outputs["logits"]), CIFAR), CIFAR)
    with pytest.raises(ParityError, match="No other reading"):
        found.require()


@pytest.mark.parametrize("trained", [CIFAR, GREY, tiny.slow(TIMM)])
@pytest.mark.parametrize("output", ["logits", "features"])
def test_an_extractor_takes_features_or_logits(trained, output, tmp_path):
    """Also where both are as wide: a GREY has 24 classes and 24 features."""
    inputs, outputs = made(trained)
    reference = read(saved(tmp_path, inputs=inputs, outputs=outputs[output]), trained, "logits", "features")
    found = judged(reference, trained)
    assert found.record["verdict"] == "proved"
    assert found.outputs.output.startswith(output)


def test_features_alone_need_no_head(tmp_path):
    inputs, outputs = made(CIFAR)
    reference = read(saved(tmp_path, inputs=inputs, outputs=outputs["features"]), CIFAR, "features")
    assert reference.head == "fe"
    assert judged(reference, CIFAR).record["verdict"] == "proved"


def test_a_verdict_needs_figures():
    """NaN is wrong, and where the source's own float32 means nothing, nothing is proved."""
    inputs, outputs = made(CIFAR)

    def row(truth, own, found):
        return compare_outputs(lambda _: truth, lambda _: found, {"": inputs}, "logits", source=lambda _: own)[0]

    truth = outputs["logits"].astype(np.float64)
    exact = truth.astype(np.float32)
    assert verdict(row(truth, exact, exact)) == "proved"
    assert verdict(row(truth, exact, exact * np.float32(1 + 0.9 * UNPROVED))) == "not proved"
    assert verdict(row(truth, exact, exact * np.float32(1 + 1.1 * UNPROVED))) == "wrong"
    assert verdict(row(truth, exact, exact * np.nan)) == "wrong"
    assert verdict(row(truth, exact * np.float32(1.1), exact)) == "not proved"


# --- photographs


def with_photographs(folder, trained, preprocessing, **options):
    """A file whose maker prepared photographs as torchvision does, and the file read."""
    inputs, outputs = made(trained)
    images = photographs_of(90, 64)
    _, run = MAKERS[type(trained)]
    image_outputs = run(trained, weights(trained), prepared_by_maker(images, preprocessing, **options))["logits"]
    return saved(folder, inputs=inputs, outputs=outputs["logits"], images=images, image_outputs=image_outputs)


def prepared_by_maker(images, preprocessing, rows_first=False):
    """Values of 0 to 1, then mean and deviation of these, in float32."""
    mean, std = (np.float32(values) / np.float32(255) for values in (preprocessing.mean, preprocessing.std))
    resampling = Image.Resampling[preprocessing.interpolation.upper()]
    found = []
    for image in map(Image.fromarray, map(np.asarray, images)):
        size = tuple(preprocessing.resize * side // min(image.size) for side in image.size)
        if rows_first:
            image = image.resize((image.width, size[1]), resampling)
        left, top = (round((side - preprocessing.crop) / 2) for side in size)
        image = image.resize(size, resampling).crop((left, top, left + preprocessing.crop, top + preprocessing.crop))
        found.append((np.asarray(image, np.float32) / np.float32(255) - mean) / std)
    return np.stack(found)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("trained", [CIFAR, TIMM])
def test_photographs_prove_the_preprocessing(trained, interpolation, tmp_path):
    preprocessing = replace(PREPARED, interpolation=interpolation)
    reference = read(with_photographs(tmp_path, trained, preprocessing), trained)
    found = judged(reference, trained, preprocessing=preprocessing)
    found.require()
    assert (found.record["image_verdict"], found.record["images"]) == ("proved", 2)
    assert list(found.facts) == ["reference", "reference, photographs"]
    assert not found.notices


OTHERWISE = [
    {"mean": (127.5,) * 3, "std": (127.5,) * 3},
    {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)},
    {"interpolation": "bilinear"},
    {"resize": 32},
    {"resize": 40},
]


@pytest.mark.parametrize("changes", OTHERWISE)
def test_other_preprocessing_is_wrong(changes, tmp_path):
    reference = read(with_photographs(tmp_path, CIFAR, PREPARED), CIFAR)
    found = judged(reference, CIFAR, preprocessing=replace(PREPARED, **changes))
    assert (found.record["verdict"], found.record["image_verdict"]) == ("proved", "wrong")
    with pytest.raises(ParityError, match="photographs") as raised:
        found.require()
    assert "interpolation, mean and std" in str(raised.value)


def test_pixels_rounded_otherwise_are_not_proved(tmp_path):
    """Rows before columns, as other versions of Pillow take tall images."""
    reference = read(with_photographs(tmp_path, CIFAR, PREPARED, rows_first=True), CIFAR)
    found = judged(reference, CIFAR)
    found.require()
    assert (found.record["verdict"], found.record["image_verdict"]) == ("proved", "not proved")
    assert "Pillow" in found.notices[0]


@pytest.mark.parametrize("axis", [None, -1])
def test_grey_photographs(axis, tmp_path):
    images = photographs_of(32, 32)[..., 1]
    inputs, outputs = made(GREY)
    grey = Preprocessing(32, 32, (0.0,), (255.0,))
    image_outputs = convmixer(GREY, weights(GREY), np.float32(images[..., np.newaxis]) / np.float32(255))["logits"]
    arrays = {"images": images if axis is None else images[..., np.newaxis], "image_outputs": image_outputs}
    reference = read(saved(tmp_path, inputs=inputs, outputs=outputs["logits"], **arrays), GREY)
    assert reference.images.shape == (2, 32, 32, 3)
    assert judged(reference, GREY, preprocessing=grey).record["image_verdict"] == "proved"


# --- files that are none


GOOD = {
    "inputs": np.zeros((2, 32, 32, 3), np.float32),
    "outputs": np.ones((2, 10), np.float32),
    "images": np.zeros((1, 5, 6, 3), np.uint8),
    "image_outputs": np.ones((1, 10)),
}


def test_what_is_read(tmp_path):
    found = read(saved(tmp_path, **GOOD), CIFAR)
    assert found.answers.outputs.dtype == found.image_outputs.dtype == np.float32
    assert (found.answers.names, found.head) == (("logits",), "classification")
    swapped = {"inputs": GOOD["inputs"].astype(">f4"), "outputs": np.asfortranarray(GOOD["outputs"].astype(">f8"))}
    found = read(saved(tmp_path, **swapped), CIFAR)
    np.testing.assert_array_equal(found.answers.outputs, GOOD["outputs"])
    assert found.answers.inputs.dtype.isnative


def test_any_height_and_width(tmp_path):
    path = saved(tmp_path, inputs=np.zeros((1, 33, 18, 3), np.float32), outputs=np.ones((1, 10)))
    assert read(path, CIFAR, size=0).answers.inputs.shape == (1, 33, 18, 3)
    with pytest.raises(ParameterError, match=r"inputs is float32 \[1, 33, 18, 3\]; expected .*32, 32, 3"):
        read(path, CIFAR)


ODD = {
    "inputs": [
        np.zeros((2, 3, 32, 32), np.float32),  # channels first
        np.zeros((2, 32, 32), np.float32),
        np.zeros((2, 31, 32, 3), np.float32),
        np.zeros((2, 32, 32, 1), np.float32),
        np.zeros((2, 32, 32, 3), np.float64),
        np.zeros((2, 32, 32, 3), np.uint8),
        np.zeros((0, 32, 32, 3), np.float32),
        np.zeros((MOST_IMAGES + 1, 32, 32, 3), np.float32),
        np.full((2, 32, 32, 3), np.nan, np.float32),
        np.array("text"),
        np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")]),
        np.array([None, {}]),
    ],
    "outputs": [
        np.ones((2, 9)),
        np.ones((2, 32)),  # features
        np.ones((3, 10)),
        np.ones(10),
        np.ones(()),
        np.ones((2, 10), np.float16),
        np.ones((2, 10), np.int64),
        np.ones((2, 10), np.complex64),
        np.full((2, 10), np.inf, np.float32),
        np.full((2, 10), 1e200),
    ],
    "images": [
        np.zeros((1, 5, 6, 3), np.float32),
        np.zeros((1, 3, 5, 6), np.uint8),
        np.zeros((1, 5, 6, 4), np.uint8),
        np.zeros((5, 6), np.uint8),
        np.zeros((1, 0, 6, 3), np.uint8),
        np.zeros((0, 5, 6, 3), np.uint8),
        np.zeros((MOST_IMAGES + 1, 5, 6, 3), np.uint8),
    ],
    "image_outputs": [np.ones((2, 10)), np.ones((1, 32)), np.full((1, 10), np.nan)],
}


@pytest.mark.parametrize(("key", "array"), [(key, array) for key, arrays in ODD.items() for array in arrays])
def test_an_odd_array_is_named(key, array, tmp_path):
    path = saved(tmp_path, **GOOD | {key: array})
    with pytest.raises(ParameterError, match=f"^reference {path}: {key} "):
        read(path, CIFAR)


@pytest.mark.parametrize("keys", [("inputs",), ("outputs",), ("inputs", "outputs", "images"), ()])
def test_a_missing_array_is_named(keys, tmp_path):
    path = saved(tmp_path, **{key: GOOD[key] for key in keys})
    with pytest.raises(ParameterError, match=f"^reference {path}: .*Expected an .npz with inputs"):
        read(path, CIFAR)


def test_images_for_a_model_that_takes_none(tmp_path):
    with pytest.raises(ParameterError, match="takes no photographs"):
        read(saved(tmp_path, **GOOD), CIFAR, photographs=False)


def npy(shape="(2, 10)", data=b"\0" * 80, descr="'<f4'"):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    header = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


HOSTILE = {
    "pickled": npy("(10,)", descr="'|O'"),
    "more than it has": npy("(1000000000000, 10)"),
    "negative": npy("(-2, -10)"),
    "endless": npy("(0, 1" + "0" * 40 + ")", b""),
    "no numbers": npy(descr="'|V4'"),
    "no header": b"\x93NUMPY\x01\x00\xff\xff{",
    "nothing": b"",
}


@pytest.mark.parametrize("outputs", HOSTILE.values(), ids=HOSTILE)
def test_hostile_members(outputs, tmp_path):
    path = tmp_path / "reference.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inputs.npy", npy("(2, 32, 32, 3)", b"\0" * (2 * 32 * 32 * 3 * 4)))
        archive.writestr("outputs.npy", outputs)
    with pytest.raises(ParameterError, match=f"^reference {path}: "):
        read(path, CIFAR)


def bomb():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("outputs.npy", npy())
        with archive.open("inputs.npy", "w") as file:
            for _ in range(65):
                file.write(bytes(1 << 20))
    return buffer.getvalue()


def extra():
    buffer = io.BytesIO()
    np.savez(buffer, **GOOD, **{"../labels": np.ones(2)})
    return buffer.getvalue()


def good():
    buffer = io.BytesIO()
    np.savez(buffer, **GOOD)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", good()[:-30], good()[:2000], npy(), extra(), bomb()],
    ids=["empty", "no zip", "cut", "cut early", "an .npy", "another member", "bomb"],
)
def test_hostile_files(content, tmp_path):
    path = tmp_path / "reference.npz"
    path.write_bytes(content)
    with pytest.raises(ParameterError, match=f"^reference {path}: .*Expected an .npz"):
        read(path, CIFAR)


def test_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "none.npz"):
        with pytest.raises(ParameterError, match=f"^reference {path}: "):
            read(Path(path), CIFAR)
