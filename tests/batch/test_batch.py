"""The batch: what is chosen, what is made again, what a failure, an interrupt or too much memory leaves."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import convert_stand_in
import psutil
import pytest

from utils import release
from utils.artefact import lite_file
from utils.artefact.contents import check_artefact
from utils.artefact.lite_file import hash_bytes
from utils.artefact.manifest import packed_manifest
from utils.batch import command as batch
from utils.batch import plan as batch_plan
from utils.checkpoints.loading import resolve
from utils.errors import ParameterError
from utils.files import hash_file
from utils.models.variants import get_variant

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = (sys.executable, str(Path(convert_stand_in.__file__)))
CLASSIFIER, FEATURES = "mixer_tiny_classification_synthetic", "mixer_tiny_fe_synthetic"
PLAIN = "mixer_tiny_classification_plain_synthetic", "mixer_tiny_fe_plain_synthetic"
OPTIONS = ["--variants", "mixer_tiny", "--checkpoint", "synthetic"]


@pytest.fixture(autouse=True, scope="module")
def _environment(tmp_path_factory):
    """No notebooks, and a cache of these tests' own, with the checkpoint in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "CONVERT", STAND_IN)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("MIXERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        resolve(get_variant("mixer_tiny"), "synthetic", 0)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with both heads, to be copied."""
    folder = tmp_path_factory.mktemp("made")
    assert run(folder) == 0
    return folder


def run(folder, *options):
    return batch.main([*OPTIONS, "--output-dir", str(folder), *options])


def behave(folder, **behaviour):
    folder.mkdir(exist_ok=True)
    (folder / "behaviour.json").write_text(json.dumps(behaviour))


def begun(folder):
    path = folder / "begun"
    return path.read_text().split() if path.exists() else []


def remains(folder):
    """Hidden folders and files: half an artefact."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# --- what is chosen


def names(*variants, heads="all", operations="xla", checkpoint="official"):
    return [c.name for c in batch_plan.plan(variants, heads, operations, checkpoint, 0, Path("exports"))]


def test_all_is_every_real_variant_with_both_heads_and_the_plain_twins_on_demand():
    assert len(names("all")) == len(set(names("all"))) == 28
    assert len(set(names("all", operations="all"))) == 50
    assert len(names("all", operations="plain")) == 28  # a ConvMixer has one kind of operations only
    assert not any("tiny" in name for name in names("all", operations="all"))


def test_families_patterns_and_lists_choose():
    assert len(names("convmixer", heads="fe")) == 3
    assert len(names("mixer_*_gsam", heads="classification")) == 5
    assert names("mixer_b16_sam,convmixer_1024_20", heads="fe") == ["convmixer_1024_20_fe", "mixer_b16_sam_fe"]
    assert names("mixer_tiny", heads="fe", checkpoint="synthetic") == [FEATURES]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variants": ["convmixer_999"]}, "convmixer_999"),
        ({"variants": [" "]}, "variants is empty"),
        ({"variants": ["convmixer_tiny"]}, "without an official file"),
        ({"heads": "both"}, "heads is 'both'"),
        ({"operations": "tf"}, "operations is 'tf'"),
        ({"checkpoint": "auto"}, "checkpoint is 'auto'"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_makes_no_sense_is_an_error_before_anything_is_made(options, said):
    right = {"variants": ["all"], "heads": "all", "operations": "xla", "checkpoint": "official", "seed": 0}
    with pytest.raises(ParameterError, match=said):
        batch_plan.plan(**(right | options), output_dir=Path("exports"))


def test_wrong_option_is_one_line_and_a_status(tmp_path, capsys):
    assert run(tmp_path / "out", "--variants", "nothing") == 1
    assert capsys.readouterr().err.startswith("error: variants has 'nothing'")
    assert not (tmp_path / "out").exists()


# --- making, and not making again


def test_dry_run_says_what_would_be_made_and_makes_nothing(tmp_path, capsys):
    assert run(tmp_path / "out", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert f"{CLASSIFIER}  not there" in printed
    assert "2 of 2 to be made" in printed
    assert not (tmp_path / "out").exists()


def test_everything_is_made_once_and_a_second_run_makes_nothing(tmp_path, capsys):
    assert run(tmp_path, "--operations", "all") == 0
    assert sorted(begun(tmp_path)) == sorted([CLASSIFIER, FEATURES, *PLAIN])
    first = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar.gz")}
    assert len(first) == 4
    assert list(tmp_path.rglob("*.log")) == []
    assert remains(tmp_path) == []
    capsys.readouterr()
    assert run(tmp_path, "--operations", "all") == 0
    assert len(begun(tmp_path)) == 4
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar.gz")} == first
    assert capsys.readouterr().out.count("was done") == 4
    assert run(tmp_path, "--again", "--heads", "fe") == 0
    assert begun(tmp_path)[4:] == [FEATURES]


def edit(folder, change):
    path = folder / f"{CLASSIFIER}.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


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
        (lambda f: (f / CLASSIFIER / "more").touch(), "differs from its manifest: more is not"),
        (lambda f: (f / CLASSIFIER / "assets.extra/manifest.json").unlink(), "there is no assets.extra/manifest.json"),
        (lambda f: (f / CLASSIFIER / "assets.extra/README.md").unlink(), "README.md is missing"),
        (lambda f: (f / f"{CLASSIFIER}.json").write_text("[" * 100_000), "is no published manifest"),
        (lambda f: edit(f, lambda m: m["settings"].update(seed=1)), "of another conversion"),
        (lambda f: edit(f, lambda m: m["settings"].update(operations="plain")), "of another conversion"),
        (lambda f: edit(f, lambda m: m["source"].update(sha256="ab" * 32)), "another checkpoint"),
        (lambda f: edit(f, lambda m: m["parity"]["rows"][0].update(passed=False)), "'parity' is"),
        (lambda f: edit(f, lambda m: m.pop("tarball")), "is no published manifest"),
        (take_the_other_ones_files, f"is the manifest of '{FEATURES}'"),
    ],
)
def test_what_is_not_what_its_manifest_says_is_not_done(made, tmp_path, spoil, said):
    folder = shutil.copytree(made, tmp_path / "copy")
    conversion = batch_plan.plan(["mixer_tiny"], "classification", "xla", "synthetic", 0, folder)[0]
    manifest, reason = batch_plan.look(conversion, folder)
    assert (manifest["name"], reason) == (CLASSIFIER, "")
    spoil(folder)
    manifest, reason = batch_plan.look(conversion, folder)
    assert manifest == {}
    assert said in reason


def test_what_was_damaged_is_made_again_and_only_that(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "copy")
    flip(folder / f"{CLASSIFIER}.tar.gz")
    assert run(folder) == 0
    assert begun(folder)[2:] == [CLASSIFIER]
    assert (folder / f"{CLASSIFIER}.tar.gz").read_bytes() == (made / f"{CLASSIFIER}.tar.gz").read_bytes()


# --- what the conversions of one variant share


def test_the_heads_of_a_variant_share_a_folder_which_goes_when_they_are_done(tmp_path):
    resolve(get_variant("convmixer_tiny"), "synthetic", 0)
    assert run(tmp_path, "--variants", "mixer_tiny", "convmixer_tiny") == 0
    shared = [line.split() for line in (tmp_path / "shared").read_text().splitlines()]
    assert [Path(own).name for own, *_ in shared] == ["convmixer_tiny", "convmixer_tiny", "mixer_tiny", "mixer_tiny"]
    assert [others for _, *others in shared] == [[]] * 4  # the first variant's went before the second's came
    assert not Path(shared[0][0]).parent.exists()


def test_side_by_side_are_different_variants_first(tmp_path):
    resolve(get_variant("convmixer_tiny"), "synthetic", 0)
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
    table = capsys.readouterr().out
    (failed,) = [line for line in table.splitlines() if line.startswith(CLASSIFIER)]
    assert "failed" in failed
    assert said in failed
    assert check_artefact(tmp_path, FEATURES)
    assert (tmp_path / "batch" / f"{CLASSIFIER}.log").exists()
    behave(tmp_path)
    assert run(tmp_path) == 0  # goes on: only what failed is made
    assert begun(tmp_path) == [CLASSIFIER, FEATURES, CLASSIFIER]


def test_one_that_the_system_does_not_let_begin_has_failed_and_the_others_are_made(tmp_path, capsys):
    (tmp_path / "batch" / f"{CLASSIFIER}.log").mkdir(parents=True)
    assert run(tmp_path) == 1
    (failed,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(CLASSIFIER)]
    assert "failed" in failed
    assert "it could not be started" in failed
    assert check_artefact(tmp_path, FEATURES)


def test_what_became_of_each_is_told_also_where_the_report_cannot_be_written(tmp_path, capsys):
    behave(tmp_path, **{CLASSIFIER: "fail"})
    (tmp_path / "batch" / "report.json").mkdir(parents=True)
    assert run(tmp_path) == 1
    shown = capsys.readouterr()
    (failed,) = [line for line in shown.out.splitlines() if line.startswith(CLASSIFIER)]
    assert "a planted failure" in failed
    assert "error: output_dir" in shown.err


def test_a_conversion_that_takes_too_much_memory_is_stopped_and_leaves_nothing(tmp_path, capsys):
    behave(tmp_path, **{CLASSIFIER: "memory"})
    assert run(tmp_path, "--memory-mb", "300") == 1  # left alone it would go on after five minutes, and be made
    assert "MB were used, and --memory-mb allows 300" in capsys.readouterr().out
    assert remains(tmp_path) == []
    assert check_artefact(tmp_path, FEATURES)


def test_the_memory_that_is_free_is_shared_between_the_jobs(made, tmp_path, monkeypatch):
    folder = shutil.copytree(made, tmp_path / "out")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Mock(available=10e9, total=16 << 30))
    assert run(folder, "--jobs", "4") == 0
    assert json.loads((folder / "batch" / "report.json").read_text())["runs"][-1]["memory_mb"] == 0.9 * 10_000 / 4


# --- interrupts


def wait_for(path, seconds=240):
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert path.exists()


def runs(pid):
    """Whether the process is alive; one that was killed may stay as a zombie until somebody asks for it."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
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
        wait_for(tmp_path / "kernel")
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
    assert CLASSIFIER in (tmp_path / "SHA256SUMS").read_text()
    (tmp_path / "behaviour.json").unlink()
    assert run(tmp_path, "--operations", "all") == 0
    assert begun(tmp_path) == [CLASSIFIER, FEATURES, FEATURES, *PLAIN]


def test_under_nohup_the_end_of_the_terminal_interrupts_nothing():
    from utils.batch.command import _handling

    asked = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _handling(lambda: asked.append(1)):
            os.kill(os.getpid(), signal.SIGHUP)
            assert asked == []
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked == [1]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_two_interrupts_between_two_looks_kill(tmp_path):
    class Child:
        log, seconds, peak_mb, exceeded, done = tmp_path / "log", 1.0, 1.0, False, []

        def interrupt(self):
            self.done.append("interrupted")

        def kill(self):
            self.done.append("killed")

        def poll(self):
            return -9

        def cells(self):
            return 0, 0

    (tmp_path / "log").write_text("")
    outcome = batch_plan.Outcome(batch_plan.plan(["mixer_tiny"], "fe", "xla", "synthetic", 0, tmp_path)[0])
    both = batch.Batch(tmp_path, 1, 100, Mock())
    both.interrupt()
    both.interrupt()
    with ThreadPoolExecutor(1) as checker:
        both._run([], {FEATURES: (outcome, Child())}, tmp_path, checker)
    assert Child.done == ["killed"]
    assert outcome.state == "interrupted"


def test_a_conversion_ends_when_the_batch_was_killed(tmp_path):
    """SIGKILL leaves the batch no time to stop what it started."""
    child = (
        "import sys, time; from pathlib import Path; from utils.command import run_command;"
        "run_command(lambda: (Path(sys.argv[1], 'at work').touch(), time.sleep(900)), 'left')"
    )
    code = (
        "import sys, time; from pathlib import Path; from utils.batch.supervision import Supervised;"
        f"command = [sys.executable, '-u', '-c', {child!r}, sys.argv[1]];"
        "s = Supervised(command, Path(sys.argv[1]) / 'log', 1e6, Path.cwd());"
        "Path(sys.argv[1], 'pid').write_text(str(s._process.pid)); time.sleep(900)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    try:
        wait_for(tmp_path / "at work")
        wait_for(tmp_path / "pid")
        pid = int((tmp_path / "pid").read_text())
        assert runs(pid)
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 240
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not runs(pid)
    assert "left" in (tmp_path / "log").read_text()


def test_a_checkpoint_is_fetched_once_for_conversions_that_run_side_by_side(monkeypatch, tmp_path):
    outcomes = [batch_plan.Outcome(c) for c in batch_plan.plan(["mixer_tiny"], "all", "xla", "synthetic", 0, tmp_path)]
    running = {CLASSIFIER: (outcomes[0], None)}
    assert batch._next(outcomes[1:], running) is outcomes[1]  # its file is in the cache
    monkeypatch.setenv("MIXERS_CACHE", str(tmp_path / "empty"))
    assert batch._next(outcomes[1:], running) is None
    assert batch._next(outcomes[1:], {}) is outcomes[1]


def test_conversions_run_side_by_side(tmp_path):
    behave(tmp_path, **{CLASSIFIER: "memory"})  # waits in vain, until the other one has been made beside it
    assert run(tmp_path, "--jobs", "2", "--memory-mb", "300") == 1
    assert sorted(begun(tmp_path)) == [CLASSIFIER, FEATURES]
    assert check_artefact(tmp_path, FEATURES)


# --- what a release has


def test_sums_index_cards_and_table_are_of_the_files_that_are_there(made):
    sums = dict(line.split("  ")[::-1] for line in (made / "SHA256SUMS").read_text().splitlines())
    made_from = {f"{n}{end}" for n in (CLASSIFIER, FEATURES) for end in (".tar.gz", ".json", ".md")}
    assert set(sums) == made_from | {"index.json", "TABLE.md"}
    assert sums == {name: hashlib.sha256((made / name).read_bytes()).hexdigest() for name in sums}
    (first, second) = json.loads((made / "index.json").read_text())["artefacts"]
    assert (first["name"], second["output"], first["output_error"]) == (CLASSIFIER, "features", 1e-6)
    assert first["files"] == {name: value for name, value in sums.items() if name.startswith(f"{CLASSIFIER}.")}
    assert "1.0e-06" in (made / f"{CLASSIFIER}.md").read_text()
    table = (made / "TABLE.md").read_text()
    for shown in (f"`{CLASSIFIER}`", "17,618", "1.0e-06", "3.0e-06", "≥ 2.14"):
        assert shown in table


def test_release_covers_what_earlier_runs_made_and_leaves_out_what_is_damaged_or_the_users_own(tmp_path):
    assert run(tmp_path, "--operations", "all") == 0
    flip(tmp_path / f"{PLAIN[0]}.tar.gz")
    edit(tmp_path, lambda m: m.update(training={"epochs": 1}))
    assert run(tmp_path, "--heads", "fe") == 0
    sums = (tmp_path / "SHA256SUMS").read_text()
    assert f"{FEATURES}.tar.gz" in sums
    assert f"{PLAIN[1]}.tar.gz" in sums
    assert f"{PLAIN[0]}.tar.gz" not in sums
    assert f"{CLASSIFIER}.tar.gz" not in sums


def test_release_of_tarballs_and_manifests_alone_is_all_or_nothing(made, tmp_path, capsys):
    for path in [*made.glob("*.tar.gz"), *made.glob("mixer*.json")]:
        shutil.copy(path, tmp_path)
    (tmp_path / "verify.pyz").write_bytes(b"verifier")
    (tmp_path / "evaluated_on_val.json").write_text("{}")  # what others leave there is none of its business
    assert release.main([str(tmp_path)]) == 0
    sums = (tmp_path / "SHA256SUMS").read_text()
    assert hashlib.sha256(b"verifier").hexdigest() in sums
    assert "on_val" not in sums
    for name in ("TABLE.md", "index.json"):
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()
    flip(tmp_path / f"{FEATURES}.tar.gz")
    assert release.main([str(tmp_path)]) == 1
    assert f"{FEATURES}.tar.gz is not the one" in capsys.readouterr().err
    shutil.copy(made / f"{FEATURES}.tar.gz", tmp_path)
    assert release.main([str(tmp_path)]) == 0
    (tmp_path / f"{FEATURES}.json").unlink()
    assert release.main([str(tmp_path)]) == 1
    assert f"{FEATURES}.json is no published manifest" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert release.main([str(tmp_path / "empty")]) == 1


def test_release_of_two_checkpoints_for_one_variant_is_refused(made, tmp_path, capsys):
    for path in [*made.glob("*.tar.gz"), *made.glob("mixer*.json")]:
        shutil.copy(path, tmp_path)
    edit(tmp_path, lambda m: m["source"].update(sha256="5" * 64))
    assert release.main([str(tmp_path)]) == 1
    said = capsys.readouterr().err
    for part in ("mixer_tiny: its synthetic artefacts were made from 2", f"{'5' * 64}: {CLASSIFIER}", FEATURES):
        assert part in said
    assert not (tmp_path / "SHA256SUMS").exists()


def smaller(folder, **changes):
    """A .tflite file of the classifier, and its manifest beside it."""
    manifest = json.loads((folder / f"{CLASSIFIER}.json").read_text())
    path = folder / f"{CLASSIFIER}_int8.tflite"
    (folder / "model").write_bytes(b"lite" * 1000)
    files = {"model.tflite": hash_file(folder / "model"), "golden.npz": hash_bytes(b"golden")}
    manifest |= {"name": path.stem, "storage": "int8", "format": "tflite", "files": files}
    manifest |= {"derived_from": {"name": CLASSIFIER, "files": manifest_files(folder)}, **changes}
    inside = {"manifest.json": json.dumps(packed_manifest(manifest)).encode(), "golden.npz": b"golden"}
    lite_file.pack_lite(folder / "model", inside, path)
    path.with_name(f"{path.name}.json").write_text(json.dumps(manifest))
    return path


def manifest_files(folder):
    return json.loads((folder / f"{CLASSIFIER}.json").read_text())["files"]


def test_a_release_lists_tflite_files_that_are_what_their_manifests_say(made, tmp_path, capsys):
    for path in [*made.glob("*.tar.gz"), *made.glob("mixer*.json")]:
        shutil.copy(path, tmp_path)
    lite = smaller(tmp_path)
    assert release.main([str(tmp_path)]) == 0
    (entry,) = [e for e in json.loads((tmp_path / "index.json").read_text())["artefacts"] if e["derived_from"]]
    assert (entry["file"], entry["bytes"]) == (lite.name, lite.stat().st_size)
    sums = dict(line.split("  ")[::-1] for line in (tmp_path / "SHA256SUMS").read_text().splitlines())
    assert (
        sums.items()
        >= entry["files"].items()
        == {name: hash_file(tmp_path / name) for name in (lite.name, f"{lite.name}.json")}.items()
    )
    assert f"| `{lite.name}` |" in (tmp_path / "TABLE.md").read_text()
    assert "latency" not in (tmp_path / "TABLE.md").read_text()
    lite_file.pack_lite(tmp_path / "model", {"manifest.json": b"{}", "golden.npz": b"golden"}, lite)
    assert release.main([str(tmp_path)]) == 1
    assert "the manifest inside is another one" in capsys.readouterr().err
    smaller(tmp_path)
    flip(lite)
    assert release.main([str(tmp_path)]) == 1
    assert "model.tflite is not the file that was published" in capsys.readouterr().err
    smaller(tmp_path, weights="custom", name=f"{lite.stem}")
    release.write_release(tmp_path, {})
    assert lite.name not in (tmp_path / "SHA256SUMS").read_text()


@pytest.mark.parametrize("changed", [False, True])
def test_a_smaller_file_of_an_artefact_that_was_made_anew_is_not_released(made, tmp_path, capsys, changed):
    for path in [*made.glob("*.tar.gz"), *made.glob("mixer*.json")]:
        shutil.copy(path, tmp_path)
    files = manifest_files(tmp_path) | ({"saved_model.pb": "0" * 64} if changed else {})
    lite = smaller(tmp_path, derived_from={"name": CLASSIFIER, "files": files})
    assert release.main([str(tmp_path)]) == int(changed)
    assert (f"{lite.name} is smaller than an artefact that was converted again" in capsys.readouterr().err) == changed
    release.write_release(tmp_path, {})  # as a batch does, which leaves it out
    assert (lite.name in (tmp_path / "SHA256SUMS").read_text()) != changed


def test_report_adds_up_over_runs(tmp_path):
    behave(tmp_path, **{FEATURES: "fail"})
    run(tmp_path)
    behave(tmp_path)
    run(tmp_path)
    report = json.loads((tmp_path / "batch" / "report.json").read_text())
    assert [(r["converted"], r["failed"], r["was done"]) for r in report["runs"]] == [(1, 1, 0), (1, 0, 1)]
    assert set(report["conversions"]) == {CLASSIFIER, FEATURES}
    for name, facts in report["conversions"].items():
        assert facts["seconds"] > 0
        assert facts["peak_mb"] >= 0  # one that ends within moments may do so before it is looked at
        assert facts["bytes"] > facts["tarball_bytes"] == (tmp_path / f"{name}.tar.gz").stat().st_size
    assert "| mixer, xla | 2 |" in (tmp_path / "batch" / "report.md").read_text()
