"""Batches of tiny artefacts by a stand-in for the conversion: what is chosen, spoilt and read of them."""

import json
import sys
from pathlib import Path

import convert_stand_in

from utils.batch import command

ROOT = Path(__file__).resolve().parent.parent
STAND_IN = (sys.executable, str(Path(convert_stand_in.__file__)))
CLASSIFIER, FEATURES = "mixer_tiny_classification_synthetic", "mixer_tiny_fe_synthetic"
PLAIN = "mixer_tiny_classification_plain_synthetic", "mixer_tiny_fe_plain_synthetic"
KERAS = "saved_model, keras"
OPTIONS = ["--variants", "mixer_tiny", "--checkpoint", "synthetic"]


def run(folder, *options):
    return command.main([*OPTIONS, "--output-dir", str(folder), *options])


def sums_of(folder):
    return dict(line.split("  ")[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())


def edit(folder, change):
    path = folder / f"{CLASSIFIER}.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
