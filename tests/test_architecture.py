"""Which module of utils/ may import what: a new module needs a row, a new import a place in its row."""

import ast
import subprocess
import sys
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

UTILS = Path(__file__).resolve().parent.parent / "utils"


@dataclass(frozen=True)
class Room:
    """Names separated by blanks: packages on import, packages inside functions only, own modules."""

    imports: str = ""
    lazily: str = ""
    utils: str = ""

    def allows(self, name: str, deferred: bool) -> bool:
        if name.startswith("utils."):
            return name.removeprefix("utils.") in self.utils.split()
        return name in self.imports.split() or (deferred and name in self.lazily.split())


# One way, no step back: an exporter knows no model, a source model knows no TensorFlow, parity knows only
# callables and arrays. Only notebooks, tests and the evaluation join the two ends.
ROOMS = {
    "__init__": Room(),
    "errors": Room(),
    # the table
    "publications": Room(),
    "variants": Room(utils="errors publications"),
    # checkpoints
    "layouts": Room(utils="variants"),
    "problems": Room("numpy", utils="errors variants"),
    "archives": Room(utils="errors"),
    "npz_file": Room("numpy", utils="archives errors"),
    "torch_file": Room(lazily="torch", utils="archives errors"),
    "safetensors_file": Room(lazily="safetensors torch", utils="archives errors"),
    "transfer": Room(lazily="pooch requests", utils="errors"),
    "hub_mirror": Room(lazily="huggingface_hub", utils="errors transfer variants"),
    "download": Room(lazily="pooch", utils="archives errors hub_mirror transfer variants"),
    "synthetic": Room("numpy", lazily="torch", utils="errors layouts variants"),
    "checkpoints": Room(
        "numpy",
        utils="archives download entries errors layouts problems synthetic variants",
    ),
    "entries": Room(
        "numpy", lazily="torch", utils="archives errors layouts npz_file safetensors_file torch_file variants"
    ),
    # source models
    "convmixer": Room("numpy torch", utils="errors variants"),
    "mlp_mixer": Room("flax jax numpy", utils="errors variants"),
    # exporters
    "exported": Room(lazily="tensorflow"),
    "onnx_compat": Room("numpy onnx", lazily="onnx_tf tensorflow", utils="errors"),
    "onnx_export": Room("onnx torch", utils="devices errors"),
    "onnx_tf_export": Room("numpy onnx tensorflow", utils="errors exported onnx_compat"),
    "jax_export": Room("jax numpy tensorflow", utils="errors exported"),
    "plain_mixer_export": Room("numpy tensorflow", utils="exported variants"),
    # artefacts
    "labels": Room(utils="errors"),
    "saved_model": Room("numpy tensorflow", utils="errors exported"),
    "staging": Room(utils="errors"),
    "extraction": Room(utils="errors"),
    "hashes": Room(utils="errors"),
    "tarball": Room(lazily="tqdm", utils="errors hashes"),
    "manifest": Room(utils="errors variants"),
    "card_header": Room(),
    "card_overview": Room(utils="card_header"),
    "model_card": Room(utils="card_header card_overview parity_row"),
    "warmup": Room("google tensorflow"),
    # using what was made
    "lite_file": Room(utils="errors"),
    "published": Room(utils="errors hashes lite_file manifest variants"),
    "pretrained": Room(utils="errors extraction hub_compat labels manifest published variants"),
    "image_source": Room(lazily="google requests", utils="errors photographs"),
    "predictions": Room("numpy"),
    "serving_client": Room(),
    "packaging": Room(utils="errors extraction hashes manifest model_card staging tarball"),
    "golden": Room("numpy", utils="errors"),
    # fine-tuning
    "training_settings": Room(utils="errors parameters"),
    "extractor": Room(utils="errors pretrained variants"),
    "augmentation": Room(lazily="tensorflow", utils="variants"),
    "datasets": Room("numpy", lazily="sklearn tensorflow_datasets tqdm", utils="augmentation errors photographs"),
    "batches": Room("numpy tensorflow", utils="augmentation datasets preprocessing variants"),
    "distribution": Room("tensorflow"),
    "keras_worlds": Room("numpy tensorflow", lazily="keras tf_keras", utils="hub_compat training_settings"),
    "training_state": Room("tensorflow", utils="errors keras_worlds"),
    "training": Room("tqdm", utils="batches datasets keras_worlds training_settings training_state variants"),
    "fine_tuned": Room("numpy tensorflow", utils="datasets errors exported manifest saved_model training_settings"),
    "training_plots": Room("numpy", lazily="matplotlib"),
    # comparison
    "parity_row": Room(),
    "parity_inputs": Room("numpy", utils="errors"),
    "parity_plot": Room(lazily="matplotlib", utils="parity_row"),
    "parity_report": Room(lazily="matplotlib", utils="errors parity_plot parity_row"),
    "parity": Room("numpy", utils="errors parity_inputs parity_report parity_row"),
    "references": Room("numpy"),
    # downloads: TensorFlow is all that they may need, and numbers are all that they need it for
    "verify_files": Room(utils="errors extraction hashes lite_file manifest published"),
    "verify_numbers": Room(
        "numpy", lazily="tensorflow", utils="errors golden parity parity_report saved_model verify_files"
    ),
    "verify": Room(utils="errors published verify_files verify_numbers"),
    "verify_app": Room(),
    # smaller files, from the published ones
    "float16_export": Room("numpy tensorflow", utils="errors saved_model"),
    "lite_export": Room("numpy tensorflow", utils="errors"),
    "smaller_files": Room(
        "numpy",
        utils="errors float16_export golden hashes lite_export lite_file manifest measure packaging parity parity_row "
        "plain_mixer_export saved_model staging variants verify_numbers warmup",
    ),
    "smaller": Room(utils="errors published quiet smaller_files verify_files verify_numbers"),
    # the rest
    "photographs": Room("PIL numpy", utils="errors variants"),
    "preprocessing": Room("tensorflow", utils="variants"),
    "image_signatures": Room("numpy tensorflow", utils="preprocessing variants"),
    "measure": Room(),
    "parameters": Room(utils="errors labels variants"),
    "display": Room("numpy", lazily="PIL matplotlib"),
    "quiet": Room(),
    "colab": Room(utils="errors"),
    "hub_compat": Room(lazily="packaging tensorflow tensorflow_hub", utils="errors"),
    "release_matrix": Room(utils="variants"),
    "devices": Room(),
    "command": Room(utils="errors"),
    "execution": Room(lazily="nbclient papermill", utils="errors"),
    "artefacts": Room(utils="errors hashes lite_file manifest published staging"),
    "release": Room(utils="artefacts card_overview errors hashes model_card staging"),
    "supervision": Room("psutil", utils="command"),
    "batch_plan": Room(utils="artefacts checkpoints errors parameters variants"),
    "batch_display": Room(lazily="tqdm", utils="batch_plan"),
    "batch_report": Room(lazily="psutil", utils="batch_plan release staging"),
    "batch": Room(
        lazily="psutil",
        utils="batch_display batch_plan batch_report errors references staging supervision variants",
    ),
    "convert": Room(utils="checkpoints command errors execution parameters parity_report parity_row variants"),
    # evaluation: a command that runs both ends on the same batches, as notebooks and tests do
    "evaluation_classes": Room(utils="errors labels"),
    "evaluation_data": Room(lazily="tensorflow_datasets", utils="errors evaluation_classes labels"),
    "evaluation_batches": Room("PIL numpy", utils="errors evaluation_data photographs variants"),
    "evaluation_figures": Room("numpy", utils="errors"),
    "evaluation_progress": Room(utils="errors evaluation_figures"),
    "evaluation_model": Room(
        "numpy",
        lazily="tensorflow",
        utils="checkpoints convmixer errors labels manifest mlp_mixer pretrained quiet saved_model variants",
    ),
    "evaluation_report": Room(utils="checkpoints evaluation_data evaluation_model evaluation_progress"),
    "evaluate": Room(
        lazily="numpy tqdm",
        utils="checkpoints command errors evaluation_batches evaluation_data evaluation_model evaluation_progress "
        "evaluation_report",
    ),
}


def imports_of(source: str) -> set[tuple[str, bool]]:
    """(name, deferred) of every import: a package or `utils.module`; deferred: not run on import."""
    found = set()

    def visit(node: ast.AST, deferred: bool) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            deferred = True
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                visit(child, True)
            for child in node.orelse:
                visit(child, deferred)
            return
        for name in names(node):
            own = name.startswith("utils.")
            found.add((".".join(name.split(".")[:2]) if own else name.split(".")[0], deferred))
        for child in ast.iter_child_nodes(node):
            visit(child, deferred)

    def names(node: ast.AST) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, ["utils" if node.level else "", node.module]))
            return [f"utils.{alias.name}" for alias in node.names] if module == "utils" else [module]
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).split(".")[-1]
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                return [node.args[0].value]
        return []

    visit(ast.parse(source), False)
    return {(name, deferred) for name, deferred in found if name not in sys.stdlib_module_names}


def trespasses(source: str, room: Room) -> list[str]:
    return sorted(
        f"{name} {'inside a function' if deferred else 'at import time'}"
        for name, deferred in imports_of(source)
        if not room.allows(name, deferred)
    )


@pytest.mark.parametrize("path", sorted(UTILS.rglob("*.py")), ids=lambda path: path.stem)
def test_module_imports_only_what_its_row_allows(path):
    assert path.stem in ROOMS, f"utils/{path.name} has no row in ROOMS: say what it may import"
    assert trespasses(path.read_text(encoding="utf-8"), ROOMS[path.stem]) == []


def test_every_row_has_its_module():
    assert sorted(ROOMS) == sorted(path.stem for path in UTILS.rglob("*.py"))


def test_the_rows_go_one_way():
    TopologicalSorter({name: room.utils.split() for name, room in ROOMS.items()}).prepare()  # or CycleError


@pytest.mark.parametrize(
    ("source", "trespass"),
    [
        ("import torch", "torch at import time"),
        ("import torch.nn as nn", "torch at import time"),
        ("from tensorflow.python import x", "tensorflow at import time"),
        ("try:\n    import jax\nexcept ImportError:\n    jax = None", "jax at import time"),
        ("class A:\n    import flax", "flax at import time"),
        ("def f():\n    import jax", "jax inside a function"),
        ("def f():\n    from utils.parity import Row", "utils.parity inside a function"),
        ("from utils import parity", "utils.parity at import time"),
        ("from . import parity", "utils.parity at import time"),
        ("from .parity import Row", "utils.parity at import time"),
        ("import utils.parity", "utils.parity at import time"),
        ("import importlib\nimportlib.import_module('torch.nn')", "torch at import time"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import jax", "jax inside a function"),
    ],
)
def test_planted_import_is_caught(source, trespass):
    assert trespasses(source, Room("numpy", lazily="pooch", utils="errors")) == [trespass]


def test_lazy_import_is_allowed_in_functions_only():
    room = Room(lazily="torch", utils="errors")
    assert trespasses("import os\nfrom utils.errors import X\ndef f():\n    import torch", room) == []
    assert trespasses("import torch", room) == ["torch at import time"]


@pytest.mark.parametrize("module", ["utils", "utils.variants", "utils.errors", "utils.convert", "utils.evaluate"])
def test_importing_the_table_or_the_command_loads_nothing_outside_the_standard_library(module):
    code = f"""
import sys
before = set(sys.modules)
import {module}
loaded = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(*sorted(loaded - set(sys.stdlib_module_names) - {{"utils"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=UTILS.parent, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("", "", 0)
