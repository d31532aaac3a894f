"""Synthetic weights behave like trained ones: signals of order 1 at any depth, logits that differ."""

from pathlib import Path

import numpy as np
import pytest
import torch

from utils.checkpoints import synthetic
from utils.errors import CheckpointError
from utils.families import FAMILIES
from utils.families.convmixer.source import ConvMixer
from utils.families.mlp_mixer import source as mlp_mixer
from utils.families.variants import VARIANTS, get_variant
from utils.images.photographs import pillow_preprocess, sample_photographs

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = ["convmixer_tiny", "convmixer_tiny_relu", "mixer_tiny"]


def write(variant, path, seed=0):
    synthetic.write(variant, path, seed)
    return path


def pictures(variant):
    """Three photographs, normalised, and three of noise: float32 [6, H, W, 3]."""
    photographs = [pillow_preprocess(image, variant.preprocessing) for image in sample_photographs().values()]
    noise = np.random.default_rng(0).standard_normal((3, *photographs[0].shape), dtype=np.float32)
    return np.concatenate([np.stack(photographs[:3]), noise])


def test_file_of_pytorch_is_wrapped_as_the_official_one(tmp_path):
    golden = REPOSITORY / "tests/data/golden/convmixer_tiny.timm.pth.tar"
    written = torch.load(write(get_variant("convmixer_tiny"), tmp_path / "file"), weights_only=True)
    assert written.keys() == torch.load(golden, weights_only=True).keys()


@pytest.mark.parametrize("name", TINY)
def test_nothing_is_left_at_a_default(name):
    """All-default BatchNorm statistics, scales of one or biases of zero would hide conversion errors."""
    variant = get_variant(name)
    arrays = dict(FAMILIES[variant.family].synthetic.arrays(variant.architecture, 0))
    for key, array in arrays.items():
        if array.ndim:
            assert array.std() > 0.02, key
            assert np.abs(array).max() < 20, key
        else:
            assert array > 0, key
        if key.endswith(("running_var", "scale")):
            assert array.min() > 0.05, key


def test_unwritable_place_is_reported_and_leaves_nothing(tmp_path):
    for name in TINY:
        with pytest.raises(CheckpointError, match="cannot be written"):
            write(get_variant(name), tmp_path / "absent" / "file")
    assert not list(tmp_path.iterdir())


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = write(get_variant("mixer_tiny"), tmp_path / "file.npz")
    before = path.read_bytes()

    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", fails)
    with pytest.raises(CheckpointError, match="No space left"):
        write(get_variant("mixer_tiny"), path, seed=1)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["file.npz"]


def convmixer_signals(variant, images):
    """Standard deviation after the stem and after every block, and the logits."""
    weights = {
        key: torch.from_numpy(array)
        for key, array in FAMILIES[variant.family].synthetic.arrays(variant.architecture, 0)
    }
    model = ConvMixer(variant.architecture).eval()
    model.load_state_dict(weights, strict=True)
    deviations = []
    for layer in [model.stem, *model.blocks]:
        # Over pictures and positions, by channel: a signal that is the same everywhere carries nothing.
        layer.register_forward_hook(lambda _, __, out: deviations.append(float(out.std(dim=(0, 2, 3)).mean())))
    with torch.inference_mode():
        logits = model(torch.from_numpy(images).permute(0, 3, 1, 2))
    return np.array(deviations), logits.numpy()


def assert_logits_tell_pictures_apart(logits):
    assert 1 < np.abs(logits).max() < 40
    assert logits.std(axis=0).mean() > 0.5, "logits differ between pictures"
    assert len(set(logits.argmax(axis=1))) > 1, "the top class differs between pictures"


FULL_SIZE = ("convmixer_1536_20", "convmixer_768_32", "convmixer_1024_20")


@pytest.mark.parametrize("name", [*TINY[:2], *(pytest.param(name, marks=pytest.mark.slow) for name in FULL_SIZE)])
def test_convmixers_pass_a_signal_through_all_blocks(name):
    deviations, logits = convmixer_signals(VARIANTS[name], pictures(VARIANTS[name])[: 4 if name in FULL_SIZE else 6])
    assert (deviations > 0.4).all()
    assert (deviations < 2.5).all()
    assert_logits_tell_pictures_apart(logits)


def mixer_outputs(variant, images):
    weights = dict(FAMILIES[variant.family].synthetic.arrays(variant.architecture, 0))
    outputs = []
    for head in ("fe", "classification"):
        model = mlp_mixer.build(variant.architecture, head)
        chosen = mlp_mixer.select_parameters(model, weights)
        outputs.append(np.asarray(mlp_mixer.predict_function(model)(chosen, images)))
    return outputs


@pytest.mark.parametrize(
    "name",
    ["mixer_tiny"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("mixer_s32_gsam", "mixer_b16_i1k", "mixer_b16_i21k")],
)
def test_mixers_tell_pictures_apart(name):
    variant = VARIANTS[name]
    images = pictures(variant)
    features, logits = mixer_outputs(variant, images if variant.testing else images[[0, 1, 3]])
    assert 0.2 < features.std() < 2
    assert features.std(axis=0).mean() > 0.05
    assert_logits_tell_pictures_apart(logits)
