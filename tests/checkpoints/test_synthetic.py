"""Synthetic files are the same for the same seed, and their weights behave like trained ones."""

import numpy as np
import pytest
import tiny
import torch

from utils.checkpoints import synthetic
from utils.checkpoints.download import CACHE_VARIABLE
from utils.checkpoints.loading import resolve
from utils.errors import CheckpointError, ParameterError
from utils.families import FAMILIES
from utils.families.convmixer.source import ConvMixer
from utils.families.variants import VARIANTS, get_variant
from utils.images.photographs import pillow_preprocess, sample_photographs

TINY = ("convmixer_tiny", "convmixer_tiny_relu", "mixer_tiny")
FULL_SIZE = ("convmixer_1536_20", "convmixer_768_32", "mixer_b16_i21k")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))


@pytest.mark.parametrize("name", TINY)
def test_file_is_written_once_and_again_if_it_changed(tmp_path, name):
    variant = get_variant(name)
    first = resolve(variant, "auto", 7)
    assert "there is none" in first.reason
    written = first.path.stat().st_mtime_ns
    asked = resolve(variant, "synthetic", 7)
    assert (asked.weights, asked.reason, asked.path, asked.sha256) == ("synthetic", "", first.path, first.sha256)
    assert first.path.stat().st_mtime_ns == written
    first.path.write_bytes(first.path.read_bytes()[:-100])
    again = resolve(variant, "synthetic", 7)
    assert again == asked, "the same seed gives the same bytes"
    tiny.read(again.path, variant)
    assert resolve(variant, "synthetic", 2**32 - 1).sha256 != first.sha256
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("checkpoint", "seed", "message"),
    [
        *((text, 0, 'checkpoint = .*"official", "synthetic" or the path') for text in ("", " ", None, 3)),
        *(("synthetic", seed, "seed = ") for seed in (-1, 2**32, 1.5, True, "1", None)),
    ],
)
def test_senseless_checkpoint_or_seed_is_refused(tmp_path, checkpoint, seed, message):
    with pytest.raises(ParameterError, match=message):
        resolve(get_variant("mixer_tiny"), checkpoint, seed)
    assert not list(tmp_path.iterdir())


def test_file_of_pytorch_is_wrapped_as_the_official_one():
    golden = torch.load(tiny.GOLDEN / "convmixer_tiny.timm.pth.tar", weights_only=True)
    path = resolve(get_variant("convmixer_tiny"), "synthetic", 0).path
    assert torch.load(path, weights_only=True).keys() == golden.keys()


@pytest.mark.parametrize("name", TINY)
def test_nothing_is_left_at_a_default(name):
    """All-default BatchNorm statistics, scales of one or biases of zero would hide conversion errors."""
    variant = get_variant(name)
    for key, array in FAMILIES[variant.family].synthetic.arrays(variant.architecture, 0):
        if array.ndim:
            assert array.std() > 0.02, key
            assert np.abs(array).max() < 20, key
        else:
            assert array > 0, key
        if key.endswith(("running_var", "scale")):
            assert array.min() > 0.05, key


@pytest.mark.parametrize("name", TINY)
def test_unwritable_place_is_reported_and_leaves_nothing(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"absent/file: .* cannot be written"):
        synthetic.write(get_variant(name), tmp_path / "absent" / "file", 0)
    assert not list(tmp_path.iterdir())


def pictures(variant):
    """Three photographs, normalised, and three of noise: float32 [6, H, W, 3]."""
    photographs = [pillow_preprocess(image, variant.preprocessing) for image in sample_photographs().values()]
    noise = np.random.default_rng(0).standard_normal((3, *photographs[0].shape), dtype=np.float32)
    return np.concatenate([np.stack(photographs[:3]), noise])


def convmixer_signals(architecture, weights, images):
    """Standard deviation after the stem and after every block."""
    model = ConvMixer(architecture).eval()
    model.load_state_dict({key: torch.from_numpy(array) for key, array in weights.items()}, strict=True)
    deviations = []
    for layer in [model.stem, *model.blocks]:
        # Over pictures and positions, by channel: a signal that is the same everywhere carries nothing.
        layer.register_forward_hook(lambda _, __, out: deviations.append(float(out.std(dim=(0, 2, 3)).mean())))
    with torch.inference_mode():
        model(torch.from_numpy(images).permute(0, 3, 1, 2))
    return np.array(deviations)


@pytest.mark.parametrize("name", [*TINY, *map(tiny.slow, FULL_SIZE)])
def test_signals_are_of_order_one_at_any_depth_and_logits_tell_pictures_apart(name):
    variant = VARIANTS[name]
    family, images = FAMILIES[variant.family], pictures(variant)
    images = images if variant.testing else images[[0, 1, 3]]
    weights = dict(family.synthetic.arrays(variant.architecture, 0))
    found = family.models.build(variant.architecture, weights, "classification").outputs(images, "float32")
    assert 1 < np.abs(found["logits"]).max() < 40
    assert found["logits"].std(axis=0).mean() > 0.5, "logits differ between pictures"
    assert len(set(found["logits"].argmax(axis=1))) > 1, "the top class differs between pictures"
    if variant.family == "convmixer":
        deviations = convmixer_signals(variant.architecture, weights, images)
        assert (deviations > 0.4).all()
        assert (deviations < 2.5).all()
    else:
        assert 0.2 < found["features"].std() < 2
        assert found["features"].std(axis=0).mean() > 0.05
