"""docs/own-model.md: its two usual cases, as they stand there, with tiny models."""

import argparse
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from snippets import snippets

from benchmarks.command import ROOT
from own.definitions import TIMM_MIXER, mixer, paper, trained, under
from utils.families.convmixer import ConvMixerArchitecture

pytestmark = pytest.mark.slow


def run(folder, *command):
    """In a process of its own, as a person would in this folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr


def manifest_of(folder, name):
    return json.loads((folder / "exports" / f"{name}.json").read_text("utf-8"))


def name_classes(folder, count):
    (folder / "classes.txt").write_text("".join(f"class {i}\n" for i in range(count)))


def test_a_timm_training_becomes_what_tensorflow_keras_and_litert_run(tmp_path):
    own = mixer(TIMM_MIXER, image_size=32, patch_size=8, hidden_dim=16)
    args = argparse.Namespace(model="mixer_b16_224", mean=None, std=None, img_size=None, crop_pct=None)
    torch.save(under("state_dict", args=args)(own.content), tmp_path / "model_best.pth.tar")
    name_classes(tmp_path, own.sizes.classes)
    (commands,), (use,) = (snippets("own-model.md", "From a timm training", kind) for kind in ("sh", "python"))
    # Without `setup`, which would build an environment here.
    make = f"make -f '{ROOT}/Makefile' -o setup VENV='{sys.prefix}' convert"
    run(tmp_path, "sh", "-ec", commands.replace("make convert", make))
    model = manifest_of(tmp_path, "flowers_classification")["model"]
    assert {origin for part in ("architecture", "preprocessing") for origin in model[part]["sources"].values()} == {
        "file"
    }
    np.save(tmp_path / "images.npy", (own.inputs * 0.5 + 0.5) * 255)
    use, count = re.subn(r"np\.zeros\(.*\)", 'np.load("images.npy")', use)
    use, answers = re.subn("logits = (.*)", r"answers.append(np.asarray(\1))", use)
    assert (count, answers) == (1, 3)
    run(tmp_path, sys.executable, "-c", f"answers = []\n{use}\nnp.save('answers.npy', answers)")
    for found in np.load(tmp_path / "answers.npy"):
        assert np.abs(found - own.outputs).max() < 1e-4 * np.abs(own.outputs).max()


def test_a_notebook_of_ones_own_becomes_a_model_that_is_proved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name_classes(tmp_path, 10)
    save, convert = snippets("own-model.md", "From a notebook of your own")
    exec(save, {"model": trained(paper(ConvMixerArchitecture(16, 2, 5, 2, "gelu", 10)), 0, 0.5)})  # noqa: S102
    run(tmp_path, sys.executable, "-c", convert)
    assert manifest_of(tmp_path, "cifar_classification")["reference"]["verdict"] == "proved"
    assert {path.suffix for path in (tmp_path / "exports").iterdir()} >= {".gz", ".json", ".keras", ".onnx"}
