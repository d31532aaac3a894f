"""Checkpoints as people have them: a trainer's files, timm's names, other numbers of classes."""

import argparse
from pathlib import Path

import numpy as np
import tiny
import torch

from utils.checkpoints import loading
from utils.checkpoints.loading import Checkpoint


def state_dict(name="convmixer_tiny"):
    return torch.load(tiny.GOLDEN / f"{name}.timm.pth.tar", weights_only=True)["state_dict"]


def timm_mixer():
    """The golden Mixer under timm's names, by rules of this test's own."""
    names = {"stem": "stem.proj", "pre_head_layer_norm": "norm", "token_mixing": "mlp_tokens",
             "channel_mixing": "mlp_channels", "Dense_0": "fc1", "Dense_1": "fc2", "LayerNorm_0": "norm1",
             "LayerNorm_1": "norm2", "kernel": "weight", "scale": "weight"}  # fmt: skip
    found = {}
    for key, array in tiny.mixer_weights().items():
        parts = [names.get(part, part.replace("MixerBlock_", "blocks.")) for part in key.split("/")]
        if key.endswith("kernel"):
            array = np.einsum("hwio->oihw", array) if array.ndim == 4 else array.T
        found[".".join(parts)] = np.ascontiguousarray(array)
    return found


def of_classes(count):
    weights = state_dict()
    weights["head.weight"], weights["head.bias"] = torch.randn(count, 32), torch.randn(count)
    return weights


def custom(path):
    return Checkpoint(Path(path), "custom", None, "0" * 64)


def load(checkpoint, variant, head="classification", **wanted):
    return loading.load(checkpoint, loading.Wanted(variant=variant, head=head, **wanted))


def saved(tmp_path, content, **options):
    torch.save(content, tmp_path / "own.pth.tar", **options)
    return tmp_path / "own.pth.tar"


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for key, array in wanted.items():
        np.testing.assert_array_equal(found[key], array, err_msg=key)
        assert found[key].dtype in (np.float32, np.int64)
        assert found[key].flags.c_contiguous


def training_file(**more):
    """The entries of timm's CheckpointSaver, their types, and an optimiser that made a step."""
    weights = state_dict()
    parameters = [torch.nn.Parameter(value.clone()) for value in weights.values() if value.is_floating_point()]
    optimizer = torch.optim.AdamW(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    average = {key: value + 0.5 if value.is_floating_point() else value for key, value in weights.items()}
    return {
        "epoch": 7,
        "arch": "convmixer_tiny",
        "state_dict": weights,
        "optimizer": optimizer.state_dict(),
        "version": 2,
        "args": argparse.Namespace(lr=1e-3, mean=[0.5], amp=True, log=None, data_dir=Path("/data")),
        "amp_scaler": {"scale": 65536.0, "_growth_tracker": 0},
        "metric": np.float64(77.5),
        "state_dict_ema": average,
    } | more
