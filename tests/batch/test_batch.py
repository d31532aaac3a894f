"""The batch: what is chosen, what is made again, what a failure, an interrupt or too much memory leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
import tiny
from batches import CLASSIFIER, FEATURES, KERAS, OPTIONS, PLAIN, ROOT, STAND_IN, edit, flip, run, sums_of

from utils.artefact.contents import check_artefact
from utils.batch import command as batch, plan as batch_plan
from utils.errors import ParameterError
from utils.families.variants import HEADS, VARIANTS

pytestmark = pytest.mark.usefixtures("stand_in_conversions")


def behave(folder, **behaviour):
    folder.mkdir(exist_ok=True)
    (folder / "behaviour.json").write_text(json.dumps(behaviour))


def begun(folder):
    return (folder / "begun").read_text().split()


def remains(folder):
    """Hidden folders and files: half an artefact."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def failed_line(printed):
    (line,) = [line for line in printed.splitlines() if line.startswith(CLASSIFIER)]
    assert "failed" in line
    return line


def conversions(*variants, heads="all", operations="xla", checkpoint="official", seed=0, formats="saved_model"):
    return batch_plan.plan(variants, heads, operations, checkpoint, seed, Path("exports"), formats)


# --- what is chosen


OFFICIAL = [variant for variant in VARIANTS.values() if not variant.testing]


@pytest.mark.parametrize(
    ("variants", "chosen"),
    [
        (["all"], lambda variant: True),
        (["convmixer"], lambda variant: variant.family == "convmixer"),
        (["mixer_*_gsam"], lambda variant: variant.name.endswith("_gsam")),
        (["mixer_b16_sam,convmixer_1024_20"], lambda variant: variant.name in ("mixer_b16_sam", "convmixer_1024_20")),
    ],
)
def test_all_families_patterns_and_lists_choose_each_variant_once_and_tiny_ones_by_name_alone(variants, chosen):
    names = [conversion.variant.name for conversion in conversions(*variants, heads="fe")]
    assert names == [variant.name for variant in OFFICIAL if chosen(variant)] != []
    (by_name,) = conversions("mixer_tiny", heads="fe", checkpoint="synthetic")
    assert by_name.name == FEATURES


def test_heads_and_operations_multiply_and_a_convmixer_has_one_kind_of_operations_only():
    def names(**options):
        return {conversion.name for conversion in conversions("mixer_b16_sam", "convmixer_1024_20", **options)}

    mixer, convmixer = ({f"{name}_{head}" for head in HEADS} for name in ("mixer_b16_sam", "convmixer_1024_20"))
    plain = {f"{name}_plain" for name in mixer}
    assert names() == mixer | convmixer
    assert names(operations="plain") == plain | convmixer
    assert names(operations="all") == mixer | plain | convmixer


@pytest.mark.parametrize(
    ("variants", "options", "said"),
    [
        ("convmixer_999", {}, "convmixer_999"),
        (" ", {}, "variants is empty"),
        ("convmixer_tiny", {}, "without an official file"),
        ("all", {"seed": -1}, "seed is -1"),
        ("all", {"formats": "keras"}, "formats is 'keras'"),
    ],
)
def test_what_makes_no_sense_is_an_error_before_anything_is_made(variants, options, said):
    with pytest.raises(ParameterError, match=said):
        conversions(variants, **options)


def test_wrong_option_is_one_line_and_a_status_and_a_dry_run_says_what_would_be_made(tmp_path, capsys):
    assert run(tmp_path / "out", "--variants", "nothing") == 1
    assert capsys.readouterr().err.startswith("error: variants has 'nothing'")
    for wrong in (["--heads", "both"], ["--operations", "tf"], ["--checkpoint", "auto"]):
        with pytest.raises(SystemExit):
            run(tmp_path / "out", *wrong)
    assert run(tmp_path / "out", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert f"{CLASSIFIER}  not there" in printed
    assert "2 of 2 to be made" in printed
    assert not (tmp_path / "out").exists()


# --- making, and not making again


def test_everything_is_made_once_and_what_was_damaged_again_and_only_that(tmp_path, capsys):
    assert run(tmp_path, "--operations", "all") == 0
    assert sorted(begun(tmp_path)) == sorted([CLASSIFIER, FEATURES, *PLAIN])
    first = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar.gz")}
    assert len(first) == 4
    assert [*tmp_path.rglob("*.log"), *remains(tmp_path)] == []
    capsys.readouterr()
    assert run(tmp_path, "--operations", "all") == 0
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar.gz")} == first
    assert capsys.readouterr().out.count("was done") == 4
    whole = (tmp_path / f"{CLASSIFIER}.tar.gz").read_bytes()
    flip(tmp_path / f"{CLASSIFIER}.tar.gz")
    assert run(tmp_path, "--operations", "all") == 0
    assert (tmp_path / f"{CLASSIFIER}.tar.gz").read_bytes() == whole
    assert run(tmp_path, "--again", "--heads", "fe") == 0
    assert begun(tmp_path)[4:] == [CLASSIFIER, FEATURES]


def take_the_other_ones_files(folder):
    """The files have the right names, and what is in them is another artefact."""
    for ending in ("", ".tar.gz", ".json"):
        path = folder / f"{CLASSIFIER}{ending}"
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        os.rename(folder / f"{FEATURES}{ending}", path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / f"{CLASSIFIER}.json").unlink(), "not there"),
        (lambda f: (f / f"{CLASSIFIER}.tar.gz").unlink(), "cannot be read"),
        (lambda f: flip(f / f"{CLASSIFIER}.tar.gz"), "is not the one that its manifest describes"),
        (lambda f: flip(f / CLASSIFIER / "saved_model.pb"), "differs from its manifest: saved_model.pb is not"),
        (lambda f: (f / CLASSIFIER / "assets.extra/manifest.json").unlink(), "assets.extra/manifest.json is missing"),
        (lambda f: (f / CLASSIFIER / "assets.extra/README.md").unlink(), "README.md is missing"),
        (lambda f: (f / f"{CLASSIFIER}.json").write_text("[" * 100_000), "is no published manifest"),
        (lambda f: edit(f, lambda m: m["settings"].update(seed=1)), "of another conversion"),
        (lambda f: edit(f, lambda m: m["settings"].update(operations="plain")), "of another conversion"),
        (lambda f: edit(f, lambda m: m["source"].update(sha256="ab" * 32)), "another checkpoint"),
        (lambda f: edit(f, lambda m: m["parity"]["rows"][0].update(passed=False)), "parity is"),
        (lambda f: edit(f, lambda m: m.pop("tarball")), "is no published manifest"),
        (lambda f: edit(f, lambda m: m.update(keras={})), "is no published manifest"),
        (take_the_other_ones_files, f"is the manifest of '{FEATURES}'"),
    ],
)
def test_what_is_not_what_its_manifest_says_is_not_done(made, spoil, said):
    (conversion,) = conversions("mixer_tiny", heads="classification", checkpoint="synthetic")
    manifest, reason = batch_plan.look(conversion, made)
    assert (manifest["name"], reason) == (CLASSIFIER, "")
    spoil(made)
    manifest, reason = batch_plan.look(conversion, made)
    assert manifest == {}
    assert said in reason


@pytest.mark.parametrize(("known", "done"), [(set(), True), ({"ab"}, True), ({"cd"}, False)])
def test_official_artefact_is_done_unless_the_cache_has_another_checkpoint(monkeypatch, tmp_path, known, done):
    (conversion,) = conversions("mixer_b16_sam", heads="fe")
    (tmp_path / f"{conversion.name}.json").touch()
    manifest = {"variant": "mixer_b16_sam", "head": "fe", "weights": "official", "source": {"sha256": "ab"}}
    manifest["settings"] = conversion.settings
    monkeypatch.setattr(batch_plan, "check_artefact", lambda *_: manifest)
    monkeypatch.setattr(batch_plan, "recorded_hashes", lambda *_: known)
    assert batch_plan.look(conversion, tmp_path)[0] == (manifest if done else {})


def test_a_keras_file_that_was_asked_for_must_be_there_and_one_that_was_not_may(with_keras, tmp_path):
    folder = shutil.copytree(with_keras, tmp_path / "copy")
    asked = conversions("mixer_tiny", checkpoint="synthetic", formats=KERAS)
    assert [batch_plan.look(each, folder)[1] for each in asked] == ["it has no .keras file", ""]
    assert [batch_plan.look(each, folder)[1] for each in conversions("mixer_tiny", checkpoint="synthetic")] == ["", ""]
    (folder / f"{FEATURES}.keras").unlink()
    assert f"{FEATURES}.keras cannot be read" in batch_plan.look(asked[1], folder)[1]


def test_of_twins_one_has_a_keras_file():
    twins = conversions("mixer_tiny", heads="fe", operations="all", checkpoint="synthetic", formats=KERAS)
    assert [(each.operations, each.formats) for each in twins] == [("xla", KERAS), ("plain", "saved_model")]
    (alone,) = conversions("mixer_tiny", heads="fe", operations="plain", checkpoint="synthetic", formats=KERAS)
    assert alone.formats == KERAS


def test_each_conversion_gets_the_formats_that_its_family_has_and_one_that_none_has_is_named():
    both = conversions("mixer_tiny", "convmixer_tiny", heads="fe", checkpoint="synthetic", formats=f"{KERAS}, onnx")
    assert {each.variant.family: each.formats for each in both} == {"convmixer": f"{KERAS}, onnx", "mixer": KERAS}
    with pytest.raises(ParameterError, match=r"none of these models has a \.onnx file.*add models of: convmixer"):
        conversions("mixer_tiny", checkpoint="synthetic", formats="saved_model, onnx")


def test_formats_are_passed_on_and_the_report_counts_what_they_take(both_heads, with_keras, tmp_path, capsys):
    sizes = [json.loads((f / "batch/report.json").read_text())["conversions"] for f in (both_heads, with_keras)]
    more = (with_keras / f"{FEATURES}.keras").stat().st_size
    assert sizes[1][FEATURES]["bytes"] - sizes[0][FEATURES]["bytes"] > more  # and what the manifest says of it
    assert sizes[1][CLASSIFIER]["bytes"] == sizes[0][CLASSIFIER]["bytes"]
    behave(tmp_path, **{CLASSIFIER: "forget"})
    assert run(tmp_path, "--heads", "classification", "--formats", KERAS) == 1
    assert "it has no .keras file" in failed_line(capsys.readouterr().out)


# --- what the conversions of one variant share


def test_the_heads_of_a_variant_share_a_folder_which_goes_when_they_are_done(tmp_path):
    assert run(tmp_path, "--variants", "mixer_tiny", "convmixer_tiny") == 0
    shared = [line.split() for line in (tmp_path / "shared").read_text().splitlines()]
    assert [Path(own).name for own, *_ in shared] == ["convmixer_tiny", "convmixer_tiny", "mixer_tiny", "mixer_tiny"]
    assert [others for _, *others in shared] == [[]] * 4  # the first variant's went before the second's came
    assert not Path(shared[0][0]).parent.exists()


def test_side_by_side_are_different_variants_first(tmp_path):
    assert run(tmp_path, "--variants", "mixer_tiny", "convmixer_tiny", "--jobs", "2") == 0
    assert {name.split("_")[0] for name in begun(tmp_path)[:2]} == {"convmixer", "mixer"}


# --- failures


@pytest.mark.parametrize(
    ("what", "said"),
    [("fail", "status 1: a planted failure"), ("crash", "by signal 9"), ("empty", "not there")],
)
def test_a_failure_does_not_stop_the_others_and_shows_in_table_and_status(tmp_path, capsys, what, said):
    behave(tmp_path, **{CLASSIFIER: what})
    assert run(tmp_path) == 1
    assert said in failed_line(capsys.readouterr().out)
    assert check_artefact(tmp_path, FEATURES)
    assert (tmp_path / "batch" / f"{CLASSIFIER}.log").exists()
    behave(tmp_path)
    assert run(tmp_path) == 0  # goes on: only what failed is made
    assert begun(tmp_path) == [CLASSIFIER, FEATURES, CLASSIFIER]
    report = json.loads((tmp_path / "batch" / "report.json").read_text())  # adds up over runs
    assert [(r["converted"], r["failed"], r["was done"]) for r in report["runs"]] == [(1, 1, 0), (1, 0, 1)]
    assert set(report["conversions"]) == {CLASSIFIER, FEATURES}
    for name, facts in report["conversions"].items():
        assert facts["seconds"] > 0
        assert facts["peak_mb"] >= 0  # one that ends within moments may do so before it is looked at
        assert facts["bytes"] > facts["tarball_bytes"] == (tmp_path / f"{name}.tar.gz").stat().st_size
    assert "| mixer, xla | 2 |" in (tmp_path / "batch" / "report.md").read_text()


def test_one_that_the_system_does_not_let_begin_has_failed_and_the_others_are_made(tmp_path, capsys):
    (tmp_path / "batch" / f"{CLASSIFIER}.log").mkdir(parents=True)
    assert run(tmp_path) == 1
    assert "it could not be started" in failed_line(capsys.readouterr().out)
    assert check_artefact(tmp_path, FEATURES)


def test_what_became_of_each_is_told_also_where_the_report_cannot_be_written(tmp_path, capsys):
    behave(tmp_path, **{CLASSIFIER: "fail"})
    (tmp_path / "batch" / "report.json").mkdir(parents=True)
    assert run(tmp_path) == 1
    shown = capsys.readouterr()
    assert "a planted failure" in failed_line(shown.out)
    assert "error: output_dir" in shown.err


def test_a_conversion_that_takes_too_much_memory_is_stopped_and_leaves_nothing_beside_another(tmp_path, capsys):
    # It waits until it is stopped; the other one is made beside it.
    behave(tmp_path, **{CLASSIFIER: "memory"})
    assert run(tmp_path, "--jobs", "2", "--memory-mb", "300") == 1
    assert "MB were used, and --memory-mb allows 300" in capsys.readouterr().out
    assert sorted(begun(tmp_path)) == [CLASSIFIER, FEATURES]
    assert remains(tmp_path) == []
    assert check_artefact(tmp_path, FEATURES)


def test_the_memory_that_is_free_is_shared_between_the_jobs(made, tmp_path, monkeypatch):
    folder = shutil.copytree(made, tmp_path / "out")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Mock(available=10e9, total=16 << 30))
    assert run(folder, "--jobs", "4") == 0
    assert json.loads((folder / "batch" / "report.json").read_text())["runs"][-1]["memory_mb"] == 0.9 * 10_000 / 4


# --- interrupts


def wait_for(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def runs(pid):
    """Whether the process is alive; one that was killed may stay as a zombie until somebody asks for it."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("signum", [signal.SIGINT, tiny.slow(signal.SIGTERM), tiny.slow(signal.SIGHUP)])
def test_interrupted_batch_cleans_up_and_goes_on_without_loss(tmp_path, signum):
    code = "import sys; from utils.batch import command as c; c.CONVERT = sys.argv[1:3]; sys.exit(c.main(sys.argv[3:]))"
    command = [sys.executable, "-c", code, *STAND_IN, *OPTIONS, "--output-dir", str(tmp_path), "--operations", "all"]
    behave(tmp_path, **{FEATURES: "hang"})
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Started in the background or by nohup, as CI may be, these tests would pass on that it is ignored.
        preexec_fn=lambda: signal.signal(signum, signal.SIG_DFL),
    )
    try:
        wait_for((tmp_path / "kernel").exists)
        process.send_signal(signum)
        printed, said = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "The same command goes on from here" in said
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("mixer_tiny")] == [
        "converted", "interrupted", "not", "not",
    ]  # fmt: skip
    assert (tmp_path / "cleaned").exists()
    assert not runs(int((tmp_path / "kernel").read_text()))
    assert remains(tmp_path) == []
    assert f"{CLASSIFIER}.tar.gz" in sums_of(tmp_path)
    (tmp_path / "behaviour.json").unlink()
    assert run(tmp_path, "--operations", "all") == 0
    assert begun(tmp_path) == [CLASSIFIER, FEATURES, FEATURES, *PLAIN]


def test_under_nohup_the_end_of_the_terminal_interrupts_nothing():
    asked = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with batch._handling(lambda: asked.append(1)):
            os.kill(os.getpid(), signal.SIGHUP)
            assert asked == []
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked == [1]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_two_interrupts_between_two_looks_kill(tmp_path):
    child = Mock(**{"poll.side_effect": [None, -9], "cells.return_value": (0, 0)})
    both = batch.Batch(tmp_path, 1, 100, Mock())
    both.interrupt()
    both.interrupt()
    assert both._watch(Mock(), child) == -9
    assert (child.kill.call_count, child.interrupt.call_count) == (1, 0)


def test_a_conversion_ends_when_the_batch_was_killed(tmp_path):
    """SIGKILL leaves the batch no time to stop what it started."""
    child = (
        "import sys, time; from pathlib import Path; from utils.command import run_command;"
        "run_command(lambda: (Path(sys.argv[1], 'at work').touch(), time.sleep(900)), 'left')"
    )
    code = (
        "import sys, time; from pathlib import Path; from utils.batch.supervision import Supervised;"
        f"command = [sys.executable, '-u', '-c', {child!r}, sys.argv[1]];"
        "s = Supervised(command, Path(sys.argv[1]) / 'log', 1e6, Path.cwd(), {});"
        "Path(sys.argv[1], 'pid').write_text(str(s._process.pid)); time.sleep(900)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    try:
        wait_for((tmp_path / "at work").exists)
        wait_for((tmp_path / "pid").exists)
        pid = int((tmp_path / "pid").read_text())
        assert runs(pid)
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not runs(pid))
    assert "left" in (tmp_path / "log").read_text()


def test_a_checkpoint_is_fetched_once_for_conversions_that_run_side_by_side(monkeypatch, tmp_path):
    first, second = map(batch_plan.Outcome, conversions("mixer_tiny", checkpoint="synthetic"))
    assert batch._next([second], [first]) is second  # its file is in the cache
    monkeypatch.setenv("MIXERS_CACHE", str(tmp_path / "empty"))
    assert batch._next([second], [first]) is None
    assert batch._next([second], []) is second
