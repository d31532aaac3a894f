"""The code of README.md and docs/ runs as it stands there, with tiny models in the place of full-size ones.

docs/own-model.md has its own tests: own/test_page.py and parity/test_reference.py.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap

import artefacts
import keras_tiny
import onnx_tiny
import pytest
from snippets import BLOCK_OF_CODE

from benchmarks.command import ROOT
from utils.artefact.record import model_facts
from utils.export.signatures import image_signatures
from utils.families.variants import HEADS, get_variant

PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
PAGES.remove("docs/own-model.md")

# By the page and the beginning of the block: why it cannot be run here, and what runs it.
ELSEWHERE = {
    ("README.md", "git clone"): "a network; test_make.py reads what `make` is given",
    (
        "docs/clients.md",
        "import mediapipe",
    ): "it is not installed; benchmarks/clients.py runs it in an environment of its own",
    (
        "docs/clients.md",
        "pip install tensorflowjs",
    ): "a network; benchmarks/clients.py runs it in an environment of its own",
    ("docs/clients.md", "name="): "Docker",
    ("docs/clients.md", "python -m utils.serving_client"): "a server; test_serving_client.py has a stand-in for it",
    ("docs/conversion.md", "make convert"): "a network; test_make.py reads what `make` is given",
    ("docs/conversion.md", "from utils.conversion"): "test_conversion.py calls it, and README.md too",
    ("docs/conversion.md", ".venv/bin/papermill"): "a network; notebook/test_conversion_notebooks.py runs the notebook",
    ("docs/evaluation.md", "for model in"): "ImageNet; evaluate/test_evaluate.py has a folder like it",
    ("docs/fine-tuning.md", "from google.colab"): "Colab",
    ("docs/fine-tuning.md", "import timm"): "it is not installed; test_weights.py has a stand-in for it",
    ("docs/fine-tuning.md", "import numpy"): "a Mixer's file; test_weights.py makes one",
    ("docs/fine-tuning.md", "make convert"): "a network; notebook/test_fine_tune.py runs the notebook",
    ("docs/fine-tuning.md", "python -m benchmarks"): "photographs of one's own",
    ("docs/keras.md", "make convert"): "a network; test_make.py reads what `make` is given",
    ("docs/predict.md", "pip install"): "a network, photographs; predict/test_cluster.py has a cluster",
    ("docs/releases.md", "make release"): "an hour; batch/test_batch.py has a stand-in for the conversions",
    (
        "docs/releases.md",
        "python -m utils.publish huggingface exports --owner <you>  ",
    ): "official weights; test_publish.py",
    ("docs/releases.md", "python -m utils.publish huggingface exports --owner <you> --only"): "the same",
}
SLOW = {  # a minute or more
    ("README.md", "from utils.conversion"),
    ("docs/clients.md", "python -c"),
    ("docs/clients.md", "import tensorflow"),
    ("docs/keras.md", "import os"),
    ("docs/smaller-files.md", "python -m"),
    ("docs/verification.md", "python -m"),
}
# Of the pages' full-size models, and of the tiny one that takes their place.
NAMES = {"convmixer_768_32": "convmixer_tiny", "mixer_b16_i1k": "mixer_tiny", "224": "48"}
NAMES |= {"block_15": "block_1", "block_31": "block_2", "blocks-15-3": "blocks-1-3"}


BLOCKS = [
    (page, language, code)
    for page in PAGES
    for language, code in BLOCK_OF_CODE.findall((ROOT / page).read_text("utf-8"))
    if language in ("python", "sh")
]
SOURCE = {"url": "https://example.org/tiny.pth.tar", "path": None, "sha256": "ab" * 32}


def is_among(block, keys):
    page, _, code = block
    return any(page == each and code.strip().startswith(beginning) for each, beginning in keys)


RUN = [
    pytest.param(
        language, code, id=f"{page} {code[:40]!r}", marks=[pytest.mark.slow] * is_among((page, language, code), SLOW)
    )
    for page, language, code in BLOCKS
    if not is_among((page, language, code), ELSEWHERE)
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkout's folder after two conversions, with what the README unpacks of them."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "assets").symlink_to(ROOT / "assets")
    signatures = image_signatures(get_variant("convmixer_tiny").preprocessing)
    for head in HEADS:
        artefacts.publish(folder / "exports", head=head, signatures=signatures, weights="official", source=SOURCE)
    shutil.copy(folder / "exports" / "convmixer_tiny_classification.tar.gz", folder)
    (unpack,) = [code for page, _, code in BLOCKS if page == "README.md" and code.startswith("mkdir")]
    run(folder, "sh", "-ec", small(unpack))
    return folder


@pytest.fixture(scope="module")
def with_files(made, tmp_path_factory):
    """The same with files for Keras 3, ONNX Runtime and LiteRT beside the SavedModels."""
    from utils.artefact.opening import open_model
    from utils.keras_models import saving
    from utils.smaller import making

    folder = shutil.copytree(made, tmp_path_factory.mktemp("files") / "reader", symlinks=True)
    exports, name = folder / "exports", "convmixer_tiny_classification"
    record = {"name": "a", "head": "fe", "weights": "synthetic", "labels": None}  # without names of classes
    saving.save(keras_tiny.built("convmixer_tiny", "fe", 48), exports / "convmixer_tiny_fe.keras", record)
    variant = get_variant("convmixer_tiny")
    told = {"model": json.dumps(model_facts(variant, variant.preprocessing))}
    onnx_tiny.written(exports / f"{name}.onnx", "convmixer_tiny", image_size=48, metadata=told)
    making.make_lite(open_model(str(exports / f"{name}.tar.gz")), "float32", exports)
    return folder


def small(code):
    for name, tiny in NAMES.items():
        code = code.replace(name, tiny)
    return code


def run(folder, *command):
    """In a process of its own, as a person would in this folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("language", "code"), RUN)
def test_a_page_s_code_runs_as_it_stands_there(request, tmp_path, monkeypatch, language, code):
    code = textwrap.dedent(small(code))  # a list's
    if language == "sh":
        folder = shutil.copytree(request.getfixturevalue("made"), tmp_path / "reader", symlinks=True)
        for unpacked in ("model", "features") if code.startswith("mkdir") else ():
            shutil.rmtree(folder / unpacked)
        run(folder, "sh", "-ec", code)
    elif "os.environ" in code or "utils.conversion" in code:
        run(request.getfixturevalue("with_files"), sys.executable, "-c", code)
    else:
        monkeypatch.chdir(request.getfixturevalue("with_files"))
        exec(code, {})  # noqa: S102


def test_what_is_listed_is_on_its_page_once():
    assert [key for key in (*ELSEWHERE, *SLOW) if sum(is_among(block, [key]) for block in BLOCKS) != 1] == []
