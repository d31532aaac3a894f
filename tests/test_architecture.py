"""Which rooms of utils/ import which, and that importing one loads no framework."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINT_IMPORTS = Path(sys.executable).parent / "lint-imports"
FRAMEWORKS = {"flax", "jax", "keras", "onnx", "onnxruntime", "tensorflow", "tf_keras", "torch"}


def lint_imports(folder):
    command = [sys.executable, LINT_IMPORTS, "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_rooms_import_only_what_their_contracts_allow():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "said"),
    [
        (
            "parity/comparison.py",
            "from utils.artefact import card",
            "utils.parity is not allowed to import utils.artefact",
        ),
        ("artefact/card.py", "def f():\n    import torch", "utils.artefact is not allowed to import torch"),
        (
            "export/function.py",
            "import utils.families.convmixer.source",
            "utils.export is not allowed to import utils.families.convmixer",
        ),
    ],
)
def test_an_import_that_no_contract_allows_is_found(tmp_path, module, line, said):
    shutil.copytree(ROOT / "utils", tmp_path / "utils")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "utils" / module).open("a", encoding="utf-8") as file:
        file.write(line)
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert said in done.stdout


@pytest.mark.parametrize(
    "module",
    [
        "families.variants",
        "errors",
        "convert",
        "evaluate",
        "batch.command",
        "release.command",
        "weights",
        "parity",
        "artefact.card",
    ],
)
def test_importing_a_room_loads_no_framework(module):
    code = f"import sys, utils.{module}; print(*{FRAMEWORKS} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("", "", 0)
