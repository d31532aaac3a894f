"""The benchmark's tables follow from its samples, and a quick run of all of it leaves both."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import (
    command,
    graphs,
    keras_models,
    latency,
    processes,
    tables,
    training,
)
from benchmarks.exports import weights_of
from utils.errors import ParityError
from utils.families.variants import get_variant

ROOT = Path(__file__).resolve().parents[2]
NOTES = {"machine": "a machine", "command": "a command"}


def conversion_sample(side, seconds, peak_mb):
    return {
        "side": side,
        "variant": "v",
        "seconds": seconds,
        "stages": {"save": seconds / 2},
        "peak_mb": peak_mb,
    }


def latency_samples(ours, plain, variant="convmixer_tiny", pytorch=1.0, batch=8, onednn="1"):
    other = "0" if onednn == "1" else "1"
    seconds = {
        ("ours", onednn): ours,
        ("plain", onednn): plain,
        ("pytorch", None): pytorch,
        ("onnxruntime", None): 0.5,
        ("frozen", onednn): 0.25,
        ("ours", other): 0.001,
        ("frozen", other): 0.001,
        ("plain", other): 0.001,
    }
    return [
        {
            "variant": variant,
            "batch": batch,
            "contender": contender,
            "onednn": setting,
            "seconds": s,
            "run": "today",
        }
        | ({"passes": 7} if contender == "ours" else {})
        for (contender, setting), s in seconds.items()
    ]


def cells(table, first):
    """The row of a markdown table that starts with these cells."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return next(row for row in rows if row[: len(first)] == list(first))


def test_conversion_ratios_are_of_medians():
    samples = [conversion_sample("ours", s, 100) for s in (1.0, 2.0, 90.0)]
    samples += [conversion_sample("plain", s, 250) for s in (7.0, 8.0, 0.1)]
    table = tables.conversion_table(samples)
    assert cells(table, ("v", "time")) == ["v", "time", "2.0 s", "7.0 s", "plain / ours 3.50", "≥ 4", "no"]
    assert cells(table, ("v", "peak memory"))[2:] == ["100 MB", "250 MB", "ours / plain 0.40", "≤ 0.5", "yes"]
    assert cells(table, ("v", "save")) == ["v", "save", "1.0 s", "3.5 s"]


@pytest.mark.parametrize(
    ("seconds", "peak_mb", "met"),
    [(2.0, 50, ("yes", "yes")), (2.001, 50.001, ("no", "no"))],  # a bound itself is met; rounding does not help
)
def test_conversion_targets_are_computed(seconds, peak_mb, met):
    table = tables.conversion_table([conversion_sample("ours", seconds, peak_mb), conversion_sample("plain", 8.0, 100)])
    assert (cells(table, ("v", "time"))[-1], cells(table, ("v", "peak memory"))[-1]) == met


@pytest.mark.parametrize(
    ("variant", "batch", "onednn", "ours", "plain", "verdicts"),
    [
        ("convmixer_1024_20", 1, "1", 1.2, 2.4, ["1.20", "≤ 1.2", "yes", "0.50", "≤ 1", "yes"]),
        ("convmixer_1024_20", 8, "1", 0.8, 0.8, ["0.80", "≤ 0.8", "yes", "1.00", "≤ 1", "yes"]),
        ("convmixer_1024_20", 8, "1", 0.804, 0.8, ["0.80", "≤ 0.8", "no", "1.00", "≤ 1", "no"]),
        ("convmixer_768_32", 1, "1", 1.0, 2.0, ["1.00", "≤ 1", "yes", "0.50", "≤ 1", "yes"]),
        ("convmixer_768_32", 8, "1", 0.61, 1.0, ["0.61", "≤ 0.6", "no", "0.61", "≤ 1", "yes"]),
        ("convmixer_768_32", 8, "0", 1.5, 1.2, ["1.50", "≤ 1.4", "no", "1.25", "≤ 1", "no"]),
        ("convmixer_768_32", 3, "1", 1.5, 3.0, ["1.50", "", "", "0.50", "≤ 1", "yes"]),
    ],
)
def test_latency_targets_are_computed(variant, batch, onednn, ours, plain, verdicts):
    table = tables.latency_table(latency_samples(ours, plain, variant, batch=batch, onednn=onednn))
    row = cells(table, (variant, str(batch), {"1": "on", "0": "off"}[onednn]))
    assert row[3:8] == [f"{1000 * ours:.1f}", "250.0", f"{1000 * plain:.1f}", "1000.0", "500.0"]
    assert row[8:] == [*verdicts, "7", "", "today"]


def test_each_machine_has_rows_of_its_own_and_the_table_tells_how_they_were_made(tmp_path):
    options = argparse.Namespace(output_dir=tmp_path)
    of_old = [{"variant": "v", "machine": "old"}, {"variant": "v"}]  # as samples were once
    tables.write(tmp_path, "latency", "Latency", NOTES, "", of_old)
    for machine, ours in (("slow", 0.5), ("fast", 0.25), ("slow", 0.75)):
        facts = {"date": "today", "machine": machine, "oneDNN by default": "on"}
        notes = facts | {"command": f"on {machine}", "versions": "1"}
        samples = latency_samples(ours, 1.0)
        command.leave(options, "latency", "Latency", notes, tables.latency_table, samples, ("variant", "machine"))
    text = (tmp_path / "latency.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if "| 8 | on |" in line]
    assert [(row[3], row[-1]) for row in rows] == [
        ("250.0", "today, fast, oneDNN by default on |"),
        ("750.0", "today, slow, oneDNN by default on |"),
    ]
    assert "- command: on slow" in text
    assert "- today, fast, oneDNN by default on: on fast; 1" in text


def test_table_and_samples_are_written_together(tmp_path):
    samples = latency_samples(0.9, 1.0)
    path = tables.write(tmp_path / "new", "x", "A title", NOTES, tables.latency_table(samples), samples)
    text = path.read_text(encoding="utf-8")
    assert tables.latency_table(samples) in text
    assert "- machine: a machine\n- command: a command\n" in text
    assert json.loads(path.with_suffix(".json").read_text()) == {"notes": NOTES, "samples": samples}
    assert sorted(p.name for p in path.parent.iterdir()) == ["x.json", "x.md"]


def test_rows_of_earlier_runs_stay_unless_they_were_made_again(tmp_path):
    first = [{"name": "a", "size": 1, "x": 1}, {"name": "b", "size": None, "x": 2}]
    tables.write(tmp_path, "x", "A title", NOTES, "", first)
    again = [{"name": "b", "size": None, "x": 3}, {"name": "a", "size": 2, "x": 4}]
    assert tables.merged(tmp_path / "x.json", again, "name", "size") == [first[0], *again]
    assert tables.merged(tmp_path / "none.json", again, "name", "size") == again


def test_a_run_on_one_machine_takes_the_place_of_all_that_was_measured_there(tmp_path):
    first = [{"machine": machine, "round": index} for machine in "ab" for index in range(3)]
    tables.write(tmp_path, "x", "A title", NOTES, "", first)
    again = [{"machine": "a", "round": 0}]
    assert tables.merged(tmp_path / "x.json", again, "machine") == [*again, *first[3:]]


def test_the_command_is_told_without_the_path_that_somebody_wrote_to():
    assert command.notes("x", ["--output-dir", "/home/me", "--quick"], [])["command"].endswith(" benchmarks.x --quick")


@pytest.mark.slow
def test_the_machine_is_told_with_what_tensorflow_makes_of_onednn_there():
    code = "from tensorflow.python.util import _pywrap_util_port as port; print('on' if port.IsMklEnabled() else 'off')"
    environment = {key: value for key, value in os.environ.items() if key != "TF_ENABLE_ONEDNN_OPTS"}
    own = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert command.notes("x", [], [])["oneDNN by default"] == own.stdout.strip()


def test_passes_are_operations_over_activations():
    matrix, vector = tf.Variable(tf.ones((4, 4))), tf.Variable(tf.ones(4))

    def few(x):
        return tf.reshape(x @ matrix, (-1, 2, 2)) * tf.math.rsqrt(vector[:2] * 2 + 1)

    def more(x):
        return tf.math.erf(tf.reduce_sum(few(x), 2))

    few, more = (tf.function(f, autograph=False).get_concrete_function(tf.TensorSpec((None, 4))) for f in (few, more))
    x = tf.ones((3, 4))
    found = graphs.passes(lambda: few(x))
    assert found == 2  # the product, and what it is scaled by
    tf.function(lambda: tf.sin(x) @ matrix)()  # what runs in between is not of the next
    assert graphs.passes(lambda: more(x)) == found + 2
    assert graphs.passes(lambda: more(x)) == 0  # it is no longer new


def quick(module, tmp_path, *options):
    """What a quick run left: samples by table."""
    command = [sys.executable, "-m", f"benchmarks.{module}", "--quick", *options, "--repeats", "1"]
    done = subprocess.run([*command, "--output-dir", tmp_path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path.stem: json.loads(path.read_text())["samples"] for path in tmp_path.glob("*.json")}


@pytest.mark.slow
def test_quick_run_measures_every_contender_and_writes_the_tables(tmp_path):
    found = quick("convmixer", tmp_path)
    assert sorted(found) == ["convmixer_conversion", "convmixer_latency"]
    samples = found["convmixer_conversion"]
    assert sorted((s["side"], s["repeat"]) for s in samples) == [("ours", 0), ("plain", 0)]
    assert all(s["peak_mb"] >= s["model_mb"] >= 0 for s in samples)
    # The stages are all of it, but for what the machine does between them.
    assert all(s["seconds"] / 2 < sum(s["stages"].values()) <= s["seconds"] for s in samples)
    samples = found["convmixer_latency"]
    assert len(samples) == 2 * 8  # batches, runs
    assert all(s["seconds"] > 0 for s in samples)
    for name, table in (("conversion", tables.conversion_table), ("latency", tables.latency_table)):
        text = (tmp_path / f"convmixer_{name}.md").read_text(encoding="utf-8")
        assert cells(text, ("convmixer_tiny",))[:2] == cells(table(found[f"convmixer_{name}"]), ("convmixer_tiny",))[:2]
        assert all(f"- {fact}" in text for fact in ("machine", "versions", "date", "command", "weights: synthetic"))


def training_samples(seconds, contender, onednn=None, family_variant="mixer_tiny", peak=100.0):
    facts = {"variant": family_variant, "part": "all", "contender": contender, "onednn": onednn, "batch": 8}
    rounds = [
        {**facts, "round": i, "seconds": s, **({"first_seconds": 9.0} if i == 0 else {})} for i, s in enumerate(seconds)
    ]
    return [*rounds, {**facts, "round": -1, "peak_mb": peak}]


def test_training_targets_are_computed_from_medians():
    samples = training_samples([1.0, 2.0, 9.0], "jax") + training_samples([2.2, 2.2, 0.1], "xla")
    samples += training_samples([2.21, 2.21, 9.9], "plain", "1", peak=250.0)
    table = training.table(samples)
    start = ("mixer_tiny", "everything")
    assert cells(table, (*start, "jax"))[4:] == ["2000.0", "4.0", "9.0", "100", "", "", ""]
    assert cells(table, (*start, "xla"))[3:] == ["n/a", "2200.0", "3.6", "9.0", "100", "1.10", "≤ 1.1", "yes"]
    assert cells(table, (*start, "plain"))[3:] == ["on", "2210.0", "3.6", "9.0", "250", "1.10", "≤ 1.1", "no"]


@pytest.mark.slow
def test_quick_training_run_compares_losses_and_measures_every_contender(tmp_path):
    found = quick("training", tmp_path, "--parts", "all")
    assert sorted(found) == ["training_convmixer", "training_mixer"]
    samples = [sample for rows in found.values() for sample in rows]
    contenders = {(s["variant"], s["part"], s["contender"], s["onednn"]) for s in samples}
    assert len(contenders) == 3 + 5
    assert len([s for s in samples if s.get("seconds", 0) > 0]) == len([s for s in samples if "peak_mb" in s]) == 8
    lines = [(tmp_path / f"{name}.md").read_text(encoding="utf-8").count("| everything |") for name in sorted(found)]
    assert lines == [3, 5]


def keras_samples(contender, seconds, **facts):
    return [{"variant": "mixer_tiny", "contender": contender, **facts, "seconds": s} for s in seconds]


def test_keras_models_are_told_by_medians_and_as_multiples_of_their_source():
    samples = keras_samples("jax", [0.01, 0.02, 0.09], batch=8)
    samples += keras_samples("keras tensorflow compiled", [0.03, 0.001, 0.05], batch=8)
    samples += keras_samples("jax", [9.0], batch=1)
    table = keras_models.latency_table(samples)
    assert cells(table, ("mixer_tiny", "8", "JAX, the source"))[3:] == ["20.0", ""]
    assert cells(table, ("mixer_tiny", "8", "Keras on TensorFlow, `jit_compile=True`"))[3:] == ["30.0", "1.50"]

    samples = training_samples([1.0, 2.0, 9.0], "jax") + training_samples([2.2, 2.2, 0.1], "keras torch", peak=250.0)
    table = keras_models.training_table(samples)
    assert cells(table, ("mixer_tiny", "JAX, the source"))[2:] == ["2000.0", "", "9.0", "100"]
    assert cells(table, ("mixer_tiny", "Keras on PyTorch"))[2:] == ["2200.0", "1.10", "9.0", "250"]


def writes_a_wrong_keras_file(name, head):
    """As the benchmark's own, but for the scale of the last BatchNorm."""
    from utils.keras_models import conversion

    def write(file):
        variant = get_variant(name)
        weights = dict(weights_of(variant))
        last = f"blocks.{variant.architecture.depth - 1}.3.weight"
        weights[last] = weights[last] * np.float32(1.1)
        conversion.write(file, variant, weights, head, variant.image_size, record={})

    return write


@pytest.mark.slow
def test_a_keras_model_that_computes_another_thing_than_its_source_is_not_timed():
    def save(name, scratch, head="classification"):
        file, environment = scratch / "model.keras", {"KERAS_BACKEND": "torch"}
        with processes.Worker("file", writes_a_wrong_keras_file, name, head, environment=environment) as worker:
            worker(file)
        return {"keras": file}

    runs = {"convmixer": (("pytorch", None), ("keras torch", None))}
    with pytest.raises(ParityError, match="keras torch"):
        next(latency.samples(["convmixer_tiny"], 1, runs, save))
    with pytest.raises(RuntimeError, match=r"keras torch on convmixer_tiny, all: (?s:.*)not the same step"):
        next(training.samples(["convmixer_tiny"], ["all"], 1, 2, runs, save))


@pytest.mark.slow
def test_quick_keras_run_compares_and_measures_every_contender(tmp_path):
    found = quick("keras_models", tmp_path)
    assert sorted(found) == ["keras_latency", "keras_training"]
    runs = {name: keras_models.RUNS[get_variant(name).family] for name in keras_models.QUICK_VARIANTS}
    contenders = {(name, contender) for name in runs for contender, _ in runs[name]}
    for samples in found.values():
        timed = [s for s in samples if s.get("seconds", 0) > 0]
        assert {(s["variant"], s["contender"]) for s in timed} == contenders
    assert [len([s for s in found["keras_latency"] if s["batch"] == batch]) for batch in (1, 8)] == 2 * [
        len(contenders)
    ]
    assert len([s for s in found["keras_training"] if "peak_mb" in s]) == len(contenders)
    for name in found:
        text = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
        assert all(f"- {fact}" in text for fact in ("machine", "versions", "date", "command", "weights: synthetic"))
