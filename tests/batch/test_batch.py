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
from utils.batch import command as batch, plan as batch_plan, report as batch_report
from utils.errors import ParameterError
from utils.families.variants import HEADS, VARIANTS

pytestmark = pytest.mark.usefixtures("stand_in_conversions")
BOTH = ["--variants", "mixer_tiny", "convmixer_tiny"]


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


def report(folder):
    return json.loads((folder / "batch" / "report.json").read_text())


def outcomes(*variants, heads="all", operations="xla", formats="saved_model", **common):
    common = {"checkpoint": "synthetic", "output_dir": "exports"} | common
    return batch_plan.plan(variants, heads, operations, formats, **common)


def planned(*variants, **options):
    return {outcome.name: outcome.settings for outcome in outcomes(*variants, **options)}


# --- what is chosen


@pytest.mark.parametrize(
    ("variants", "chosen"),
    [
        (["all"], lambda variant: True),
        (["convmixer"], lambda variant: variant.family == "convmixer"),
        (["mixer_*_gsam"], lambda variant: variant.name.endswith("_gsam")),
        (["mixer_b16_sam,convmixer_1024_20"], lambda variant: variant.name in ("mixer_b16_sam", "convmixer_1024_20")),
    ],
)
def test_all_families_patterns_and_lists_choose_each_variant_once_and_tiny_ones_where_they_are_meant(variants, chosen):
    official = [variant for variant in VARIANTS.values() if not variant.testing]
    wanted = [f"{variant.name}_fe" for variant in official if chosen(variant)]
    assert [*planned(*variants, heads="fe", checkpoint="official")] == wanted != []
    assert [*planned("mixer_tiny", heads="fe")] == [FEATURES]
    assert [*planned("mixer_t*", heads="fe")] == [FEATURES]


def test_heads_and_operations_multiply_and_a_convmixer_has_one_kind_of_operations_only():
    def names(operations):
        return {*planned("mixer_b16_sam", "convmixer_1024_20", operations=operations, checkpoint="official")}

    mixer, convmixer = ({f"{name}_{head}" for head in HEADS} for name in ("mixer_b16_sam", "convmixer_1024_20"))
    plain = {f"{name}_plain" for name in mixer}
    assert names("xla") == mixer | convmixer
    assert names("plain") == plain | convmixer
    assert names("all") == mixer | plain | convmixer


def test_each_gets_the_formats_that_its_family_has_and_of_twins_one_gets_files_beside_it():
    both = planned("mixer_tiny", "convmixer_tiny", heads="fe", operations="all", formats=f"{KERAS}, onnx")
    formats = {"convmixer_tiny_fe_synthetic": f"{KERAS}, onnx", FEATURES: KERAS, PLAIN[1]: "saved_model"}
    assert {name: settings.formats for name, settings in both.items()} == formats
    (alone,) = planned("mixer_tiny", heads="fe", operations="plain", formats=KERAS).values()
    assert alone.formats == KERAS


@pytest.mark.parametrize(
    ("variants", "options", "said"),
    [
        ("convmixer_999", {}, "convmixer_999"),
        (" ", {}, "variants is empty"),
        ("convmixer_tiny", {"checkpoint": "official"}, "without an official file"),
        ("all", {"seed": -1}, "seed is -1"),
        ("all", {"formats": "kera"}, "formats is 'kera'"),
        ("mixer_tiny", {"formats": "saved_model, onnx"}, r"none of these models has a \.onnx file.*: convmixer"),
    ],
)
def test_what_makes_no_sense_is_an_error_before_anything_is_made(variants, options, said):
    with pytest.raises(ParameterError, match=said):
        planned(variants, **options)


def test_wrong_option_is_one_line_and_a_status_and_a_dry_run_says_what_would_be_made(tmp_path, capsys):
    assert run(tmp_path / "out", "--variants", "nothing") == 1
    assert capsys.readouterr().err.strip().startswith("error: variants has 'nothing'")
    assert run(tmp_path / "out", "--dry-run") == 0
    (line,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(CLASSIFIER)]
    assert line == [CLASSIFIER, "not", "started", "not", "there"]
    assert not (tmp_path / "out").exists()


# --- making, and not making again


def test_everything_is_made_once_and_what_was_damaged_again_and_only_that(tmp_path):
    assert run(tmp_path, *BOTH) == 0
    names = begun(tmp_path)
    assert len(names) == len({*names}) == 4
    shared = [line.split() for line in (tmp_path / "shared").read_text().splitlines()]
    assert [Path(own).name for own, *_ in shared] == ["convmixer_tiny", "convmixer_tiny", "mixer_tiny", "mixer_tiny"]
    assert [others for _, *others in shared] == [[]] * 4  # the first variant's went before the second's came
    assert not Path(shared[0][0]).parent.exists()
    assert [*tmp_path.rglob("*.log"), *remains(tmp_path)] == []
    whole = (tmp_path / f"{CLASSIFIER}.tar.gz").read_bytes()
    flip(tmp_path / f"{CLASSIFIER}.tar.gz")
    assert run(tmp_path, *BOTH) == 0
    assert (tmp_path / f"{CLASSIFIER}.tar.gz").read_bytes() == whole
    assert run(tmp_path, "--again", "--heads", "fe") == 0
    assert begun(tmp_path)[4:] == [CLASSIFIER, FEATURES]


def test_synthetic_weights_of_another_seed_do_not_take_an_artefact_s_place(tmp_path, capsys):
    assert run(tmp_path, "--heads", "fe") == 0
    before = (tmp_path / f"{FEATURES}.tar.gz").read_bytes()
    assert run(tmp_path, "--heads", "fe", "--seed", "1") == 1
    assert "SHA-256 is" in capsys.readouterr().err
    assert (tmp_path / f"{FEATURES}.tar.gz").read_bytes() == before


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
        (lambda f: flip(f / CLASSIFIER / "saved_model.pb"), "differs from its manifest: saved_model.pb is not"),
        (lambda f: (f / f"{CLASSIFIER}.json").write_text("[" * 100_000), "is no published manifest"),
        (lambda f: edit(f, lambda m: m["settings"].update(seed=1)), "of another conversion"),
        (lambda f: edit(f, lambda m: m["settings"].update(operations="plain")), "of another conversion"),
        (lambda f: edit(f, lambda m: m["source"].update(sha256="ab" * 32)), "another checkpoint"),
        (take_the_other_ones_files, f"is the manifest of '{FEATURES}'"),
    ],
)
def test_what_is_not_what_its_manifest_says_is_not_done(made, spoil, said):
    settings = planned("mixer_tiny", output_dir=str(made))[CLASSIFIER]
    manifest, reason = batch_plan.look(settings)
    assert (manifest["name"], reason) == (CLASSIFIER, "")
    spoil(made)
    manifest, reason = batch_plan.look(settings)
    assert manifest == {}
    assert said in reason


@pytest.mark.parametrize(("known", "done"), [(set(), True), ({"ab"}, True), ({"cd"}, False)])
def test_official_artefact_is_done_unless_the_cache_has_another_checkpoint(monkeypatch, tmp_path, known, done):
    ((name, settings),) = planned("mixer_b16_sam", heads="fe", checkpoint="official", output_dir=str(tmp_path)).items()
    (tmp_path / f"{name}.json").touch()
    manifest = {"variant": "mixer_b16_sam", "head": "fe", "weights": "official", "source": {"sha256": "ab"}}
    manifest["settings"] = {"image_size": 224, "seed": 0, "operations": "xla"}
    monkeypatch.setattr(batch_plan, "check_artefact", lambda *_: manifest)
    monkeypatch.setattr(batch_plan, "recorded_hashes", lambda *_: known)
    assert batch_plan.look(settings)[0] == (manifest if done else {})


def test_a_keras_file_that_was_asked_for_must_be_there_and_one_that_was_not_may(with_keras, tmp_path):
    folder = shutil.copytree(with_keras, tmp_path / "copy")
    asked = planned("mixer_tiny", formats=KERAS, output_dir=str(folder))
    assert [batch_plan.look(each)[1] for each in asked.values()] == ["it has no .keras file", ""]
    assert [batch_plan.look(each)[1] for each in planned("mixer_tiny", output_dir=str(folder)).values()] == ["", ""]
    (folder / f"{FEATURES}.keras").unlink()
    assert f"{FEATURES}.keras cannot be read" in batch_plan.look(asked[FEATURES])[1]


def test_side_by_side_are_different_variants_and_one_fetches_a_checkpoint_for_the_others():
    mixer, features, convmixer, other = outcomes("mixer_tiny", "convmixer_tiny")
    mixer.state = "running"
    assert batch._next([mixer, features, convmixer, other]) is convmixer
    assert batch._next([mixer, features]) is None
    mixer.state = "converted"
    assert batch._next([mixer, features, convmixer, other]) is features
    features.state = "failed"
    assert batch._next([features, mixer]) is None


# --- failures


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("fail", "status 1: a planted failure"),
        ("crash", "by signal 9"),
        ("empty", "not there"),
        ("forget", "it has no .keras file"),
    ],
)
def test_a_failure_does_not_stop_the_others_and_shows_in_table_and_status(tmp_path, capsys, what, said):
    behave(tmp_path, **{CLASSIFIER: what})
    formats = ("--formats", KERAS) if what == "forget" else ()
    assert run(tmp_path, *formats) == 1
    assert said in failed_line(capsys.readouterr().out)
    assert check_artefact(tmp_path, FEATURES)
    assert (tmp_path / "batch" / f"{CLASSIFIER}.log").exists()


def test_a_batch_goes_on_and_its_report_adds_up_over_runs(tmp_path):
    behave(tmp_path, **{CLASSIFIER: "fail"})
    assert run(tmp_path) == 1
    behave(tmp_path)
    assert run(tmp_path, "--formats", KERAS) == 0
    assert begun(tmp_path) == [CLASSIFIER, FEATURES, CLASSIFIER, FEATURES]
    behave(tmp_path)
    assert run(tmp_path) == 0
    found = report(tmp_path)
    assert [(each["converted"], each["failed"], each["was done"]) for each in found["runs"]] == [
        (1, 1, 0), (2, 0, 0), (0, 0, 2),
    ]  # fmt: skip
    assert set(found["conversions"]) == {CLASSIFIER, FEATURES}
    for name, facts in found["conversions"].items():
        assert facts["seconds"] > 0
        assert facts["peak_mb"] >= 0  # one that ends within moments may do so before it is looked at
        assert facts["tarball_bytes"] == (tmp_path / f"{name}.tar.gz").stat().st_size
        assert facts["bytes"] > facts["tarball_bytes"] + (tmp_path / f"{name}.keras").stat().st_size
    assert "| mixer, xla | 2 |" in (tmp_path / "batch" / "report.md").read_text()


@pytest.mark.parametrize("text", ["{}", "[]", '{"runs": [{}], "conversions": {}}', "[" * 3000])
def test_an_odd_report_of_earlier_runs_counts_as_none(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    assert batch_report._read(tmp_path / "report.json") == {"runs": [], "conversions": {}}


def test_one_that_the_system_does_not_let_begin_has_failed_and_the_others_are_made(tmp_path, capsys):
    (tmp_path / "batch" / f"{CLASSIFIER}.log").mkdir(parents=True)
    (tmp_path / "batch" / "report.json").mkdir(parents=True)
    assert run(tmp_path) == 1
    shown = capsys.readouterr()
    assert "it could not be started" in failed_line(shown.out)  # told also where the report cannot be written
    assert "error: output_dir" in shown.err
    assert check_artefact(tmp_path, FEATURES)


def test_a_conversion_that_takes_too_much_memory_is_stopped_and_leaves_nothing_beside_another(tmp_path, capsys):
    # It waits until it is stopped; the other one is made beside it.
    behave(tmp_path, **{CLASSIFIER: "memory"})
    assert run(tmp_path, *BOTH, "--heads", "classification", "--jobs", "2", "--memory-mb", "300") == 1
    assert "MB were used, and --memory-mb allows 300" in capsys.readouterr().out
    assert len(begun(tmp_path)) == 2
    assert remains(tmp_path) == []
    assert check_artefact(tmp_path, "convmixer_tiny_classification_synthetic")


def test_the_memory_that_is_free_is_shared_between_the_jobs(made, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Mock(available=10e9, total=16 << 30))
    assert run(made, "--jobs", "4") == 0
    assert report(made)["runs"][-1]["memory_mb"] == 0.9 * 10_000 / 4


# --- interrupts


def wait_for(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def runs(pid):
    """Whether the process is alive; one that was killed may stay as a zombie until somebody asks for it."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("signals", "behaviour"),
    [
        ([signal.SIGINT], "hang"),
        tiny.slow([signal.SIGHUP], "hang"),
        tiny.slow([signal.SIGINT, signal.SIGTERM], "deaf"),  # a second one kills
    ],
)
def test_interrupted_batch_cleans_up_and_goes_on_without_loss(tmp_path, signals, behaviour):
    code = "import sys; from utils.batch import command as c; c.CONVERT = sys.argv[1:3]; sys.exit(c.main(sys.argv[3:]))"
    command = [sys.executable, "-c", code, *STAND_IN, *OPTIONS, "--output-dir", str(tmp_path), "--operations", "all"]
    behave(tmp_path, **{FEATURES: behaviour})
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Started in the background or by nohup, as CI may be, these tests would pass on that it is ignored.
        preexec_fn=lambda: [signal.signal(each, signal.SIG_DFL) for each in signals],
    )
    try:
        wait_for((tmp_path / "kernel").exists)
        for each in signals:
            process.send_signal(each)
        printed, said = process.communicate(timeout=20)  # the first one alone would give it half a minute
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "The same command goes on from here" in said
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("mixer_tiny")] == [
        "converted", "interrupted", "not", "not",
    ]  # fmt: skip
    assert (tmp_path / "cleaned").exists() == (behaviour == "hang")
    assert not runs(int((tmp_path / "kernel").read_text()))
    assert remains(tmp_path) == []
    assert f"{CLASSIFIER}.tar.gz" in sums_of(tmp_path)
    (tmp_path / "behaviour.json").unlink()
    assert run(tmp_path, "--operations", "all") == 0
    assert begun(tmp_path) == [CLASSIFIER, FEATURES, FEATURES, *PLAIN]


def test_under_nohup_the_end_of_the_terminal_interrupts_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with batch._noted_signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_conversion_ends_when_the_batch_was_killed(tmp_path):
    """SIGKILL leaves the batch no time to stop what it started."""
    child = (
        "import sys, time; from pathlib import Path; from utils.command import run_command;"
        "run_command(lambda: (Path(sys.argv[1], 'at work').touch(), time.sleep(900)), 'left')"
    )
    code = (
        "import sys, time; from pathlib import Path; from utils.batch.supervision import Supervised;"
        f"command = [sys.executable, '-u', '-c', {child!r}, sys.argv[1]];"
        "s = Supervised(command, Path(sys.argv[1]) / 'log', 1e6, {});"
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
