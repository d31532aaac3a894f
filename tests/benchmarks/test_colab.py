"""The simulated Colab: its surroundings hold, and its table says what happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import colab as simulation
from benchmarks.runtimes import RUNTIMES
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
    assert f'address = "{simulation.REPOSITORY}"\n' in "".join(cell)
    assert "git clone --quiet --depth 1 {address}\n" in "".join(cell)


@pytest.mark.parametrize("place", ["Colab", "Kaggle"])
def test_the_kernel_sees_nothing_of_ours(tmp_path, monkeypatch, place):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with simulation._pretended(tmp_path):
        printed = started(tmp_path, place, "from google import protobuf; print(sys.path)")
    assert str(ROOT) not in printed.replace(str(tmp_path), "").replace("site-packages", "").split("'")


@pytest.mark.parametrize(("place", "sees"), [("Colab", "True False"), ("Kaggle", "False True")])
def test_the_kernel_is_of_one_place(tmp_path, place, sees):
    with simulation._pretended(tmp_path):
        code = "'google.colab' in sys.modules, 'KAGGLE_KERNEL_RUN_TYPE' in os.environ"
        imports = "import google.colab.output; " if place == "Colab" else ""  # JAX does
        assert started(tmp_path, place, f"print({code}); {imports}").strip() == sees


def started(scratch, place, code):
    """What IPython, with the kernel's environment and so its startup files, prints."""
    simulation._kernel(scratch, Path(sys.executable), place)
    kernel = json.loads((scratch / "jupyter" / "kernels" / "colab" / "kernel.json").read_text())
    command = [kernel["argv"][0], "-m", "IPython", "--no-banner", "-c", f"import os, sys; {code}"]
    environment = os.environ | kernel["env"]
    done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_copy_may_be_changed_without_changing_the_environment(tmp_path):
    environment = tmp_path / "environment"
    (environment / "lib").mkdir(parents=True)
    (environment / "lib" / "kept").write_text("as it was")
    with simulation._copy(environment) as copy:
        (copy / "lib" / "new").write_text("installed")
        (copy / "lib" / "kept").unlink()
    assert [path.name for path in environment.rglob("*")] == ["lib", "kept"]
    assert [path.name for path in tmp_path.iterdir()] == ["environment"]


PINNED = {colab.canonical(name) for name in colab.pins(ROOT / "requirements.txt")}
LACKING = {"ai-edge-litert", "backports-strenum", "onnx", "onnxruntime", "papermill"}
LACKING |= {"flatbuffers", "importlib-resources"}  # which comes with TensorFlow, and which is not everywhere
NAMES = {
    name: {colab.canonical(line.partition("==")[0]) for line in runtime.requirements}
    for name, runtime in RUNTIMES.items()
}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_has_all_that_its_notebooks_are_compared_on(runtime):
    assert {colab.canonical(name) for name in simulation.SHOWN} <= NAMES[runtime]
    assert NAMES[runtime] >= PINNED - LACKING  # a new pin is looked up in Colab's list, too
    assert not {"onnx", "onnx-tf"} & NAMES[runtime]  # what Colab lacks is what the set-up cell is for
    assert RUNTIMES[runtime].python in colab.PYTHONS


def test_the_newest_runtime_has_what_the_last_one_has():
    *_, last, newest = RUNTIMES
    assert newest == "newest"
    assert NAMES[newest] == NAMES[last]
    assert not [line for line in RUNTIMES[newest].requirements if "=" in line]


def test_a_python_that_does_not_start_is_named_before_anything_is_made(monkeypatch, capsys, tmp_path):
    (tmp_path / "python3.13").write_text("#!/bin/sh\nexit 127\n")  # as a shim of pyenv's
    (tmp_path / "python3.13").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(simulation.environments, "interpreter", None)
    with pytest.raises(SystemExit):
        simulation.main(["--runtimes", "2026.07", "2026-09-04"])
    assert "python3.12 and python3.13 must be on PATH" in capsys.readouterr().err


def test_the_table_tells_what_ran_and_what_was_installed():
    sample = {
        "runtime": "2026.01",
        "python": "3.12.12",
        "place": "Kaggle",
        "notebook": "a.ipynb",
        "verdict": "ParityError: a | b",
        "installed": {"onnx": "1.23.2"},
        "versions": {"tensorflow": "2.19.0", "torch": "2.9.0"},
        "seconds": 61.4,
        "run": "2026-11-27, X",
    }
    row = simulation.table([sample]).splitlines()[-1]
    assert row == (
        "| 2026.01 | 3.12.12 | 2.19.0 | 2.9.0 |  |  |  | Kaggle | a.ipynb | ParityError: a \\| b | onnx 1.23.2 | 61 | "
        "2026-11-27, X |"
    )


def test_every_notebook_is_run_and_one_as_on_kaggle():
    runs = simulation.runs(Path("scratch"))
    assert {path for place, path, _ in runs if place == "Colab"} == set(ROOT.glob("*.ipynb"))
    assert [path.name for place, path, _ in runs if place == "Kaggle"] == ["conversion_convmixer.ipynb"]
