"""Which wing of utils/ may import what, and which of its modules a framework: the rows go one way, top to bottom."""

import ast
import subprocess
import sys
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

UTILS = Path(__file__).resolve().parent.parent / "utils"


@dataclass(frozen=True)
class Wing:
    """Names separated by blanks: other wings, packages on import, packages inside functions only."""

    wings: str = ""
    imports: str = ""
    lazily: str = ""

    def allows(self, name: str, deferred: bool) -> bool:
        if name.startswith("utils."):
            return name.removeprefix("utils.") in self.wings.split()
        return name in self.imports.split() or (deferred and name in self.lazily.split())


# One way, no step back: an exporter knows no model, a source model knows no TensorFlow, parity knows only
# callables and arrays. Only notebooks, tests and the evaluation join the two ends.
WINGS = {
    "errors": Wing(),
    "files": Wing("errors"),
    "tables": Wing(),
    "command": Wing("errors"),
    "serving_client": Wing(),
    "models": Wing("errors", "flax jax numpy torch"),
    "machine": Wing("errors", lazily="packaging tensorflow tensorflow_hub"),
    "checkpoints": Wing("errors files models", "numpy", lazily="huggingface_hub pooch requests safetensors torch"),
    "images": Wing("errors files models", "PIL numpy tensorflow", lazily="google requests tensorflow_datasets"),
    "parity": Wing("errors files tables", "numpy", lazily="matplotlib"),
    "keras_models": Wing("errors files models parity", "keras numpy", lazily="jax keras tensorflow torch"),
    "export": Wing(
        "errors files images machine models", "google jax numpy onnx tensorflow torch", lazily="onnx_tf onnxruntime"
    ),
    "artefact": Wing("errors files images keras_models machine models parity tables", lazily="huggingface_hub"),
    "notebook": Wing(
        "artefact errors export files images keras_models machine models parity tables",
        "numpy",
        lazily="IPython PIL matplotlib nbclient packaging papermill",
    ),
    "release": Wing("artefact errors files models parity tables"),
    "publish": Wing("artefact command errors files keras_models models release", lazily="huggingface_hub kagglehub"),
    # downloads: TensorFlow, or ONNX Runtime, is all that they may need, and numbers are all that they need it for;
    # LiteRT, if it is there
    "verify": Wing(
        "artefact errors export files keras_models models parity", "numpy", lazily="ai_edge_litert tensorflow"
    ),
    "smaller": Wing(
        "artefact errors export files machine models parity verify", "ai_edge_litert flatbuffers numpy tensorflow"
    ),
    "training": Wing(
        "artefact errors export images keras_models machine models notebook parity",
        "PIL numpy tensorflow tqdm",
        lazily="keras matplotlib sklearn tf_keras",
    ),
    "evaluate": Wing(
        "artefact checkpoints command errors export files images machine models tables",
        "PIL numpy",
        lazily="tensorflow tqdm",
    ),
    "convert": Wing("checkpoints command errors models notebook parity"),
    "batch": Wing("artefact checkpoints command errors machine models notebook parity release tables", "psutil tqdm"),
}

# Which modules may import a framework at all, by their names or by a whole wing's.
FRAMEWORKS = {
    "torch": "models.convmixer export.torch_to_onnx checkpoints keras_models.candidate",
    "jax": "models.mlp_mixer export.jax_to_tf keras_models.candidate",
    "flax": "models.mlp_mixer",
    "onnx": "export.torch_to_onnx export.onnx_to_tf export.onnx_tf_compat export.onnx_file",
    "onnxruntime": "export.onnx_session",
    "onnx_tf": "export.onnx_tf_compat",
    "keras": "training.keras_worlds keras_models.convmixer keras_models.filling keras_models.mlp_mixer "
    "keras_models.candidate keras_models.saving",
    "tf_keras": "training.keras_worlds",
    "tensorflow_hub": "machine.hub_compat",
    "tensorflow": "export.function export.image_signatures export.jax_to_tf export.onnx_tf_compat export.onnx_to_tf "
    "export.plain_convmixer export.plain_mixer export.saved_model export.warmup images.preprocessing "
    "keras_models.candidate machine.devices machine.hub_compat verify.numbers smaller training evaluate.model",
}


def place_of(path: Path) -> str:
    return ".".join(path.relative_to(UTILS).with_suffix("").parts)


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


def trespasses(source: str, place: str) -> list[str]:
    wing = place.split(".")[0]
    return sorted(
        f"{name} {'inside a function' if deferred else 'at import time'}"
        for name, deferred in imports_of(source)
        if name != f"utils.{wing}"
        and not (WINGS[wing].allows(name, deferred) and {place, wing} & set(FRAMEWORKS.get(name, wing).split()))
    )


@pytest.mark.parametrize("path", sorted(UTILS.rglob("*.py")), ids=place_of)
def test_module_imports_only_what_its_wing_may(path):
    place = place_of(path)
    if path.name == "__init__.py":
        assert not imports_of(path.read_text(encoding="utf-8")), "a wing's face says what it is, and imports nothing"
    else:
        assert place.split(".")[0] in WINGS, f"utils/{place} has no row in WINGS: say what it may import"
        assert trespasses(path.read_text(encoding="utf-8"), place) == []


def test_every_row_has_its_wing():
    assert sorted(WINGS) == sorted(
        path.stem for path in UTILS.iterdir() if not path.stem.startswith("__")
    )  # sub-packages, and the few modules beside them
    places = {place_of(path) for path in UTILS.rglob("*.py")} | set(WINGS)
    assert {name for names in FRAMEWORKS.values() for name in names.split()} <= places


def test_the_rows_go_one_way():
    TopologicalSorter({name: wing.wings.split() for name, wing in WINGS.items()}).prepare()  # or CycleError
    seen = set()
    for name, wing in WINGS.items():
        assert set(wing.wings.split()) <= seen, f"{name} is above what it imports"
        seen.add(name)


def test_every_wing_says_what_it_is():
    for path in sorted(UTILS.glob("*/__init__.py")):
        face = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert all(f"\n{word}" in face for word in ("In: ", "Not here: ")), path
        assert "Out: " in face, path


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
    assert trespasses(source, "checkpoints.http") == [trespass]


def test_lazy_import_is_allowed_in_functions_only():
    inside = (
        "import os\nfrom utils.errors import X\nfrom utils.checkpoints.layouts import Y\ndef f():\n    import torch"
    )
    assert trespasses(inside, "checkpoints.torch_file") == []
    assert trespasses("import torch", "checkpoints.torch_file") == ["torch at import time"]


def test_a_wing_that_may_import_a_framework_does_so_in_the_named_modules_only():
    assert trespasses("import torch", "models.convmixer") == []
    assert trespasses("import torch", "models.papers") == ["torch at import time"]


@pytest.mark.parametrize(
    "module", ["utils", "utils.families.variants", "utils.errors", "utils.convert", "utils.evaluate"]
)
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
