"""Each benchmark runs, refuses to time what computes another thing, and leaves its table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import artefacts
import numpy as np
import pytest
import tiny

from benchmarks import (
    clients,
    colab,
    command,
    compat,
    contenders,
    conversion,
    gate_margins,
    latency,
    processes,
    release_latency,
    training,
)
from utils.artefact.opening import open_model
from utils.errors import ParityError
from utils.export import saved_model
from utils.files import hash_file
from utils.release import index
from utils.verify.numbers import golden_of


def contenders_of(table, family):
    return {contender for contender, _ in table.runs[family]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "table", "variant", "expected"),
    [
        ("conversion", "convmixer_conversion", None, set(conversion.SIDES)),
        ("latency", "mixer_latency", "mixer_tiny", contenders_of(latency.TABLES["mixer_latency"], "mixer")),
        ("training", "keras_training", "convmixer_tiny", contenders_of(training.TABLES["keras_training"], "convmixer")),
    ],
)
def test_a_quick_run_measures_every_contender(tmp_path, module, table, variant, expected):
    options = ["--tables", table, "--variants", variant] if variant else []
    line = [sys.executable, "-m", f"benchmarks.{module}", "--quick", *options, "--repeats", "1"]
    done = subprocess.run([*line, "--output-dir", tmp_path], cwd=command.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    samples = json.loads((tmp_path / f"{table}.json").read_text())["samples"]
    timed = {sample.get("side", sample.get("contender")) for sample in samples if sample.get("seconds", 0) > 0}
    assert timed == expected
    text = (tmp_path / f"{table}.md").read_text(encoding="utf-8")
    assert all(f"| {contender} |" in text for contender in timed)


def test_what_computes_another_thing_than_its_source_is_not_timed(monkeypatch):
    logits = np.ones((8, 10), np.float32)
    workers = {("PyTorch", None): lambda *_: logits, ("Keras on PyTorch", None): lambda *_: logits * 1.01}
    with pytest.raises(ParityError, match="Keras on PyTorch"):
        latency.require_equal_logits(workers, ("PyTorch", None))
    losses = {run: lambda _, loss=loss: {"loss": loss} for run, loss in zip(workers, (2.0, 2.01), strict=True)}
    monkeypatch.setattr(contenders, "started", lambda *_: losses)
    monkeypatch.setattr(contenders, "save", lambda *_: None)
    with pytest.raises(RuntimeError, match=r"Keras on PyTorch on convmixer_tiny, all: .*not the same step"):
        list(training.samples("convmixer_tiny", list(losses), ["all"], 1, 2))


@pytest.mark.slow
def test_releases_latency_is_measured_beside_the_source_and_read_by_the_index(tmp_path, monkeypatch):
    monkeypatch.setattr(release_latency, "ROUNDS", 1)
    exports = tmp_path / "exports"
    artefacts.publish(exports)
    artefacts.publish(exports, "mixer_tiny", head="fe")
    release_latency.main([str(exports), "--output-dir", str(tmp_path)])
    samples = json.loads((tmp_path / "release_latency.json").read_text(encoding="utf-8"))["samples"]
    names = {"convmixer_tiny_classification": "PyTorch", "mixer_tiny_fe": "JAX"}
    assert {sample["name"]: sample["framework"] for sample in samples} == names
    assert all(sample["times"] > 0 for sample in samples)
    tarballs = {hash_file(exports / f"{name}.tar.gz") for name in names}
    assert set(index.read_latencies(exports / index.LATENCY)) == tarballs


@pytest.mark.slow
def test_gate_margins_judge_a_case_in_processes_of_their_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gate_margins, "TINY", [gate_margins.Case("convmixer_tiny", "dead", "fe")])
    assert gate_margins.main(["--without-faults", "--output-dir", str(tmp_path)]) == 0
    assert "| convmixer_tiny | dead | fe |" in capsys.readouterr().out


@pytest.mark.parametrize(("change", "status"), [({}, 0), ({"passed": False}, 1), ({"slipped": ["b"]}, 1)])
def test_a_refused_checkpoint_or_a_fault_that_slips_ends_gate_margins_with_1(tmp_path, monkeypatch, change, status):
    sample = {"variant": "v", "kind": "dead", "head": "fe", "size": None, "passed": True, "where": "features"}
    sample |= {"ratios": {"1": 1.5, "0": 2.5}, "faults": {"a": 900.0, "b": 700.0}, "slipped": []} | change
    monkeypatch.setattr(gate_margins, "TINY", [gate_margins.Case("v", "dead", "fe")])
    monkeypatch.setattr(gate_margins, "judged", lambda case, with_faults: sample)
    assert gate_margins.main(["--output-dir", str(tmp_path)]) == status


@pytest.mark.slow
def test_compat_finds_what_runs_what_is_off_and_what_cannot_be_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(compat.environments, "interpreter", lambda *_: sys.executable)
    folder = saved_model.save_model(tiny.mixer("fe", "plain")[0], tmp_path / "mixer_tiny_fe_plain")
    inputs = tmp_path / "inputs.npz"
    expected = compat.reference(folder, inputs)

    def verdict(folder, expected):
        return compat.verdict(compat.errors(compat.probe("any", folder, inputs), expected))

    assert verdict(folder, expected).startswith("yes")
    assert verdict(folder, expected | {"output": 1.01 * expected["output"]}).startswith("no")
    assert verdict(tmp_path / "nothing", expected).startswith("load: ")


@pytest.mark.slow
def test_clients_numbers_and_names_are_compared(tmp_path):
    tarball = artefacts.publish(tmp_path).tarball
    artefact = clients.Artefact(open_model(str(tarball)), tarball, tmp_path, "http://server")
    golden = golden_of(artefact.opened.folder).outputs
    assert artefact.judged(golden.tolist()).startswith("yes, logits 0.0e+00 off")
    assert artefact.judged(golden * 1.001).startswith("no, logits 1.0e-03 off")
    best = artefact.logits(artefact.prepared()).argmax(axis=1)
    assert artefact.named([*best[:2], best[2] + 1]) == "no, 2 of 3 photographs named alike"
    assert clients.saved_model_cli(artefact)["serving_default"]().startswith("yes")


@pytest.mark.parametrize(("place", "sees"), [("Colab", "True False"), ("Kaggle", "False True")])
def test_the_simulated_kernel_is_of_one_place_and_has_nothing_of_ours(tmp_path, place, sees):
    with colab._pretended(tmp_path):
        colab._kernel(tmp_path, Path(sys.executable), place)
        kernel = json.loads((tmp_path / "jupyter" / "kernels" / "colab" / "kernel.json").read_text())
        code = "print('google.colab' in sys.modules, 'KAGGLE_KERNEL_RUN_TYPE' in os.environ); print(sys.path)"
        line = [kernel["argv"][0], "-m", "IPython", "--no-banner", "-c", f"import os, sys; {code}"]
        environment = os.environ | {"PYTHONPATH": str(command.ROOT)} | kernel["env"]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    found, path = done.stdout.strip().split("\n", 1)
    assert found == sees
    assert f"'{command.ROOT}'" not in path


def worker_of(name):
    """What a worker process prepares; it imports no framework."""

    def call(*numbers):
        return (os.getpid(), os.environ[name]) if not numbers else sum(numbers) if numbers[0] else os._exit(7)

    return call


@pytest.mark.slow
def test_a_worker_is_a_process_with_its_own_environment_and_its_failures_are_told():
    with processes.Worker("sums", worker_of, "SWITCH", environment={"SWITCH": "1"}) as worker:
        assert worker() == worker() != (os.getpid(), "1")
        assert worker(1, 2) == 3
        with pytest.raises(RuntimeError, match=r"for sums failed:(?s:.*)TypeError"):
            worker(1, "a")
        with pytest.raises(RuntimeError, match="the process for sums died"):
            worker(0)
    assert "SWITCH" not in os.environ
