"""The simulated Colab: its surroundings hold, and its table says what happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import colab as simulation
from utils.notebook import colab

ROOT = Path(__file__).resolve().parents[2]


def test_the_set_up_cell_s_clone_comes_from_this_checkout(tmp_path):
    with simulation._pretended(tmp_path):
        subprocess.run(
            ["git", "clone", "--quiet", "--depth", "1", simulation.REPOSITORY],
            cwd=tmp_path,
            env=os.environ | {"HOME": str(tmp_path / "home")},
            check=True,
        )
    here = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    there = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=tmp_path / "mixers-to-tensorflow", capture_output=True, text=True, check=True
    )
    assert there.stdout == here.stdout
    cell = json.loads((ROOT / "conversion_convmixer.ipynb").read_text(encoding="utf-8"))["cells"][2]["source"]
    assert f"git clone --quiet --depth 1 {simulation.REPOSITORY}\n" in "".join(cell)


def test_the_kernel_sees_colab_and_nothing_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with simulation._pretended(tmp_path):
        simulation._kernel(tmp_path, Path(sys.executable))
    kernel = json.loads((tmp_path / "jupyter" / "kernels" / "colab" / "kernel.json").read_text())
    code = "import google.colab.output, sys; from google import protobuf; print(sys.path)"
    done = subprocess.run(
        [kernel["argv"][0], "-c", code], env=os.environ | kernel["env"], capture_output=True, text=True, check=True
    )
    assert str(ROOT) not in done.stdout.replace(str(tmp_path), "").replace("site-packages", "").split("'")


def test_a_copy_may_be_changed_without_changing_the_environment(tmp_path):
    environment = tmp_path / "environment"
    (environment / "lib").mkdir(parents=True)
    (environment / "lib" / "kept").write_text("as it was")
    with simulation._copy(environment) as copy:
        (copy / "lib" / "new").write_text("installed")
        (copy / "lib" / "kept").unlink()
    assert [path.name for path in environment.rglob("*")] == ["lib", "kept"]
    assert [path.name for path in tmp_path.iterdir()] == ["environment"]


def test_the_runtime_has_all_that_its_notebooks_are_compared_on():
    names = {colab.canonical(line.partition("==")[0]) for line in simulation.RUNTIMES["2026.01"]}
    assert {colab.canonical(name) for name in simulation.SHOWN} <= names
    assert "onnx" not in names  # what Colab lacks is what the set-up cell is for
    assert {colab.canonical(line) for line in simulation.RUNTIMES["newest"]} == names


def test_the_table_tells_what_ran_and_what_was_installed():
    sample = {
        "runtime": "2026.01",
        "notebook": "a.ipynb",
        "verdict": "ParityError: a | b",
        "installed": {"onnx": "1.23.2"},
        "versions": {"tensorflow": "2.19.0", "torch": "2.9.0"},
        "seconds": 61.4,
    }
    row = simulation.table([sample]).splitlines()[-1]
    assert row == "| 2026.01 | 2.19.0 | 2.9.0 |  |  |  | a.ipynb | ParityError: a \\| b | onnx 1.23.2 | 61 |"


def test_every_notebook_is_run():
    assert {path for path, _ in simulation.notebooks(Path("exports"))} == set(ROOT.glob("*.ipynb"))
