"""Each benchmark runs, refuses to time what computes another thing, and leaves its table."""

import argparse
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
    compat_probe,
    contenders,
    environments,
    gate_margins,
    latency,
    processes,
    release_latency,
    smaller,
    training,
)
from benchmarks.clients_artefact import Artefact
from utils.artefact.opening import open_model
from utils.errors import ParityError
from utils.export import saved_model
from utils.families.variants import get_variant
from utils.files import hash_file
from utils.release import index
from utils.verify.numbers import golden_of

ROOT = Path(__file__).resolve().parents[2]


def quick(module, tmp_path, *options):
    """What a quick run left: samples by table."""
    line = [sys.executable, "-m", f"benchmarks.{module}", "--quick", *options, "--repeats", "1"]
    done = subprocess.run([*line, "--output-dir", tmp_path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path.stem: json.loads(path.read_text())["samples"] for path in tmp_path.glob("*.json")}


@pytest.mark.slow
def test_conversion_measures_both_sides(tmp_path):
    (samples,) = quick("conversion", tmp_path).values()
    assert sorted(sample["side"] for sample in samples) == ["ours", "plain onnx-tf"]
    # The stages are all of it, but for what the machine does between them.
    assert all(s["seconds"] / 2 < sum(s["stages"].values()) <= s["seconds"] for s in samples)
    assert "| convmixer_tiny | peak memory |" in (tmp_path / "convmixer_conversion.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("table", latency.RUNS)
def test_latency_measures_every_contender(tmp_path, table):
    samples = quick("latency", tmp_path, "--tables", table)[table]
    runs = latency.RUNS[table]
    expected = {(name, *run) for name in latency.QUICK[table] for run in runs[get_variant(name).family]}
    assert {(s["variant"], s["contender"], s["onednn"]) for s in samples if s["seconds"] > 0} == expected
    text = (tmp_path / f"{table}.md").read_text(encoding="utf-8")
    assert all(f"- {fact}" in text for fact in ("machine", "versions", "date", "command", "weights: synthetic"))


@pytest.mark.slow
@pytest.mark.parametrize("table", training.RUNS)
def test_training_measures_every_contender(tmp_path, table):
    samples = quick("training", tmp_path, "--tables", table, "--parts", "all")[table]
    runs = {run for family in training.RUNS[table][1].values() for run in family}
    timed, told = [s for s in samples if "seconds" in s], [s for s in samples if "peak_mb" in s]
    assert len(timed) == len(told)
    assert {(s["contender"], s["onednn"]) for s in timed} == runs


def test_what_computes_another_thing_than_its_source_is_not_timed(monkeypatch, tmp_path):
    logits = np.ones((8, 10), np.float32)
    workers = {("PyTorch", None): lambda *_: logits, ("Keras on PyTorch", None): lambda *_: logits * 1.01}
    with pytest.raises(ParityError, match="Keras on PyTorch"):
        latency.require_equal_logits(workers, ("PyTorch", None))
    losses = {run: lambda _, loss=loss: {"loss": loss} for run, loss in zip(workers, (2.0, 2.01), strict=True)}
    monkeypatch.setattr(contenders, "started", lambda *_: losses)
    monkeypatch.setattr(contenders, "save", lambda *_: None)
    with pytest.raises(RuntimeError, match=r"Keras on PyTorch on convmixer_tiny, all: .*not the same step"):
        list(training.samples("convmixer_tiny", list(losses), ["all"], 1, 2))


def test_each_machine_has_rows_of_its_own_and_the_table_tells_how_they_were_made(tmp_path):
    options = argparse.Namespace(output_dir=tmp_path)
    for machine, seconds in (("slow", 0.5), ("fast", 0.25), ("slow", 0.75)):
        facts = {"variant": "v", "batch": 8, "onednn": None}
        samples = [facts | {"contender": "PyTorch", "seconds": 1}, facts | {"contender": "JAX", "seconds": seconds}]
        notes = {"date": "today", "machine": machine, "oneDNN by default": "on", "versions": "1"}
        notes["command"] = f"on {machine}"
        command.leave(options, "x", "Latency", notes, latency.table, samples, ("variant", "machine"))
    text = (tmp_path / "x.md").read_text(encoding="utf-8")
    assert "| v | 8 | JAX | n/a | 750.0 | 0.75 | today, slow, oneDNN by default on |" in text
    assert "| v | 8 | JAX | n/a | 250.0 | 0.25 | today, fast, oneDNN by default on |" in text
    assert "500.0" not in text
    assert "- today, fast, oneDNN by default on: on fast; 1" in text


@pytest.mark.slow
def test_releases_latency_is_measured_beside_the_source_and_read_by_the_index(tmp_path):
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


def test_a_release_whose_process_dies_loses_no_other_s_latency(tmp_path, monkeypatch, capsys):
    artefacts.publish(tmp_path)
    artefacts.publish(tmp_path, "mixer_tiny", head="fe")

    def timed(folder, source, found):
        if source[0] == "mixer_tiny":
            raise RuntimeError("killed, or out of memory")
        return [{"name": name} for name in found]

    monkeypatch.setattr(release_latency, "_beside_source", timed)
    assert release_latency.samples(tmp_path) == [{"name": "convmixer_tiny_classification"}]
    assert "not timed: mixer_tiny_fe: killed" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        release_latency.main([str(tmp_path / "nothing"), "--output-dir", str(tmp_path)])


@pytest.mark.slow
def test_gate_margins_judge_a_case_in_processes_of_their_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gate_margins, "TINY", [gate_margins.Case("mixer_tiny", "dead", "fe")])
    assert gate_margins.main(["--without-faults", "--output-dir", str(tmp_path)]) == 0
    assert "| mixer_tiny | dead | fe |" in capsys.readouterr().out


@pytest.mark.parametrize(("change", "status"), [({}, 0), ({"passed": False}, 1), ({"slipped": ["b"]}, 1)])
def test_a_refused_checkpoint_or_a_fault_that_slips_ends_gate_margins_with_1(tmp_path, monkeypatch, change, status):
    sample = {"variant": "v", "kind": "dead", "head": "fe", "size": None, "passed": True, "where": "features"}
    sample |= {"ratios": {"1": 1.5, "0": 2.5}, "faults": {"a": 900.0, "b": 700.0}, "slipped": []} | change
    monkeypatch.setattr(gate_margins, "TINY", [gate_margins.Case("v", "dead", "fe")])
    monkeypatch.setattr(gate_margins, "judged", lambda case, with_faults: sample)
    assert gate_margins.main(["--output-dir", str(tmp_path)]) == status


@pytest.mark.slow
def test_compat_s_probe_finds_what_runs_what_is_off_and_what_cannot_be_loaded(tmp_path):
    folder = saved_model.save_model(tiny.mixer("fe", "plain")[0], tmp_path / "mixer_tiny_fe_plain")
    reference = compat._reference(folder, tmp_path)

    def verdict(folder, reference):
        line = [sys.executable, compat_probe.__file__, str(folder), str(reference)]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        return compat.verdict(json.loads(done.stdout.splitlines()[-1]))

    assert verdict(folder, reference).startswith("yes")
    arrays = dict(np.load(reference, allow_pickle=False))
    np.savez(tmp_path / "changed.npz", **arrays | {"output": 1.01 * arrays["output"]})
    assert verdict(folder, tmp_path / "changed.npz").startswith("no")
    assert verdict(tmp_path / "nothing", reference).startswith("load: ")


def test_clients_numbers_and_names_are_compared(tmp_path):
    tarball = artefacts.publish(tmp_path).tarball
    artefact = Artefact(open_model(str(tarball)), tarball, tmp_path, "http://server")
    golden = golden_of(artefact.opened.folder).outputs
    assert artefact.judged(golden.tolist()).startswith("yes, logits 0.0e+00 off")
    assert artefact.judged(golden * 1.001).startswith("no, logits 1.0e-03 off")
    best = artefact.logits(artefact.prepared()).argmax(axis=1)
    assert artefact.named([*best[:2], best[2] + 1]) == "no, 2 of 3 photographs named alike"
    assert clients.saved_model_cli(artefact)["serving_default"]().startswith("yes")


def test_a_client_s_own_words_are_a_failure_unless_known():
    said = clients._tried(lambda: environments.output(sys.executable, "-c", "raise ValueError('Unsupported Ops: X')"))
    sample = {"client": "TF.js", "artefact": "a", "what": "serving_image", "runs": said}
    assert said.endswith("ValueError: Unsupported Ops: X")
    assert clients.failures([sample]) == []
    assert clients.failures([sample | {"client": "MediaPipe"}]) != []


@pytest.mark.parametrize(("place", "sees"), [("Colab", "True False"), ("Kaggle", "False True")])
def test_the_simulated_kernel_is_of_one_place_and_has_nothing_of_ours(tmp_path, place, sees):
    with colab._pretended(tmp_path):
        colab._kernel(tmp_path, Path(sys.executable), place)
        kernel = json.loads((tmp_path / "jupyter" / "kernels" / "colab" / "kernel.json").read_text())
        code = "print('google.colab' in sys.modules, 'KAGGLE_KERNEL_RUN_TYPE' in os.environ); print(sys.path)"
        line = [kernel["argv"][0], "-m", "IPython", "--no-banner", "-c", f"import os, sys; {code}"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | kernel["env"]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    found, path = done.stdout.strip().split("\n", 1)
    assert found == sees
    assert f"'{ROOT}'" not in path


def worker_of(name):
    """What a worker process prepares; it imports no framework."""

    def call(*numbers):
        return (os.getpid(), os.environ[name]) if not numbers else sum(numbers) if numbers[0] else os._exit(7)

    return call


def test_a_worker_is_a_process_with_its_own_environment_and_its_failures_are_told():
    with processes.Worker("sums", worker_of, "SWITCH", environment={"SWITCH": "1"}) as worker:
        assert worker() == worker() != (os.getpid(), "1")
        assert worker(1, 2) == 3
        with pytest.raises(RuntimeError, match=r"for sums failed:(?s:.*)TypeError"):
            worker(1, "a")
        with pytest.raises(RuntimeError, match="the process for sums died"):
            worker(0)
    assert "SWITCH" not in os.environ


def test_the_table_of_smaller_files_has_each_with_its_own_figures(tmp_path, capsys):
    row = {"input": "golden", "output": "logits", "relative_l2": 1e-3, "tolerance": 2e-3, "top1": 1.0}
    manifest = {"name": "a", "parity": {"rows": [row]}}
    derived = manifest | {"derived_from": {"name": "a"}, "format": "tflite", "storage": "int8"}
    for name, told in (("a", manifest), ("a_int8.tflite", derived)):
        (tmp_path / f"{name}.json").write_text(json.dumps(told))
    (tmp_path / "a.tar.gz").write_bytes(b"1234567")
    (tmp_path / "a_int8.tflite").write_bytes(b"123")
    smaller.main([str(tmp_path), "--output-dir", str(tmp_path / "tables")])
    assert "| `a` | TFLite, int8 | 0.0 | 1.0e-03 | 2.0e-03 | 100% |" in capsys.readouterr().out
