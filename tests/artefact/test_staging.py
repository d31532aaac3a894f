"""Publishing: folder, tarball and manifest appear together, or nothing does."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from manifests import NAME, ROW, TRAINING, VARIANT, manifest, own, publish, save

from utils.artefact import placing
from utils.artefact.card import model_card
from utils.artefact.identity import outline
from utils.artefact.manifest import UNLISTED, packed_manifest
from utils.artefact.staging import Staging
from utils.artefact.tarball import hash_tarball
from utils.errors import PackagingError
from utils.files import hash_files
from utils.images.labels import Label

ROOT = Path(__file__).parents[2]
THREE = [NAME, f"{NAME}.json", f"{NAME}.tar.gz"]


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def stage(tmp_path):
    """A staging with a model saved in it."""
    stage = Staging(tmp_path, NAME)
    save(stage.model_dir)
    return stage


# --- publishing


def test_publishing_leaves_folder_tarball_and_manifest_of_one_another_and_nothing_else(tmp_path):
    published = publish(tmp_path / "new" / "exports")
    assert left_in(tmp_path / "new" / "exports") == sorted(THREE)
    assert published == tuple(tmp_path / "new" / "exports" / name for name in (THREE[0], THREE[2], THREE[1]))
    beside = json.loads(published.manifest.read_text(encoding="utf-8"))
    assert beside["tarball"] == {
        "sha256": hashlib.sha256(published.tarball.read_bytes()).hexdigest(),
        "bytes": published.tarball.stat().st_size,
    }
    inside = json.loads((published.folder / UNLISTED[0]).read_text(encoding="utf-8"))
    assert inside == packed_manifest(beside)
    assert (published.folder / UNLISTED[1]).read_text("utf-8") == model_card(inside)
    everything = hash_files(published.folder)
    assert hash_tarball(published.tarball) == everything
    assert beside["files"] == {path: value for path, value in everything.items() if path not in UNLISTED}
    assert "assets.extra/labels.tsv" in beside["files"]
    again = publish(tmp_path / "new" / "exports", b"second")
    assert (again.folder / "saved_model.pb").read_bytes() == b"second"
    assert hash_tarball(again.tarball) == hash_files(again.folder)
    assert left_in(tmp_path / "new" / "exports") == sorted(THREE)


def test_what_a_run_measured_is_beside_the_tarball_and_not_in_it(tmp_path):
    """Another machine takes other times and rounds otherwise; what it makes of the same checkpoint is the same."""
    tarballs = []
    for name, seconds, error in (("a", 1.0, 1e-6), ("b", 2.0, 2e-6)):
        with Staging(tmp_path / name, NAME) as stage:
            save(stage.model_dir)
            stage.unpacked_candidate()
            tolerance = {"logits": 1e-5, "gradients": 1e-4 + error}
            parity = {"passed": True, "tolerance": tolerance, "rows": [ROW | {"relative": error}]}
            measured = {"seconds": {"load": seconds}, "peak_memory_mb": 100 * seconds, "parity": parity}
            measured["peak_memory_mb_by_stage"] = {"load": seconds}
            tarballs.append(stage.publish(manifest(stage.files, **measured)).tarball.read_bytes())
    assert tarballs[0] == tarballs[1]
    inside = json.loads((tmp_path / "a" / NAME / "assets.extra" / "manifest.json").read_text(encoding="utf-8"))
    assert inside["parity"] == {
        "passed": True,
        "tolerance": {"logits": 1e-5},
        "compared": [{"output": "logits", "input": "noise", "batch": 8, "arrays": 1}],
    }
    beside = json.loads((tmp_path / "a" / f"{NAME}.json").read_text(encoding="utf-8"))
    assert beside["parity"]["rows"][0]["relative"] == 1e-6
    with Staging(tmp_path / "c", NAME) as stage, pytest.raises(PackagingError, match="has no figures"):
        stage.publish(inside)


def test_a_staging_serves_several_blocks_until_one_fails(tmp_path, stage):
    with stage:
        unpacked = stage.unpacked_candidate()
    assert unpacked != stage.model_dir
    assert hash_files(unpacked) == hash_files(stage.model_dir) == stage.files
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    with pytest.raises(KeyboardInterrupt), stage:
        raise KeyboardInterrupt
    assert left_in(tmp_path) == []
    with pytest.raises(PackagingError, match="is over"), stage:
        pass


@pytest.mark.parametrize("path", ["saved_model.pb", "variables/another", "assets.extra/labels.tsv"])
def test_what_parity_did_not_see_is_not_published(tmp_path, stage, path):
    stage.unpacked_candidate()
    publish(tmp_path, b"old")
    (stage.model_dir / path).write_bytes(b"changed")
    with pytest.raises(PackagingError, match="the folder differs from what parity was run on"), stage:
        stage.publish(manifest(stage.files))
    assert (tmp_path / NAME / "saved_model.pb").read_bytes() == b"old"
    assert left_in(tmp_path) == sorted(THREE)


def test_a_manifest_of_other_files_or_another_name_is_not_published(tmp_path, stage):
    with pytest.raises(PackagingError, match="was not verified"):
        stage.publish(manifest(hash_files(stage.model_dir)))
    stage.unpacked_candidate()
    with pytest.raises(PackagingError, match=r"the manifest differs .* in assets.extra/labels.tsv"):
        stage.publish(manifest({"saved_model.pb": stage.files["saved_model.pb"]}))
    with pytest.raises(PackagingError, match="convmixer_tiny_fe"):
        stage.publish(manifest(stage.files, name="convmixer_tiny_fe"))
    (stage.model_dir / "saved_model.pb").unlink()
    with pytest.raises(PackagingError, match=r"no saved_model\.pb"):
        stage.unpacked_candidate()
    stage.discard()
    assert left_in(tmp_path) == []


# --- an artefact that was made from something else

SETTINGS = {"image_size": 48, "seed": 0}
OTHERWISE = {
    "SHA-256": {"source": {"url": None, "path": "other.pth", "sha256": "cd" * 32}},
    "weights": {
        **{"variant": VARIANT, "weights": "official"},
        "source": {"url": "https://example.org/a", "path": None, "sha256": "ab" * 32},
    },
    "settings.use_ema": {"settings": SETTINGS | {"use_ema": True}},
    "settings.image_size": {"settings": SETTINGS | {"image_size": 0}},
    "architecture.activation": {"architecture": replace(VARIANT.architecture, activation="relu")},
    "architecture.batch_norm_epsilon": {"architecture": replace(VARIANT.architecture, batch_norm_epsilon=1e-3)},
    "preprocessing.mean": {"preprocessing": replace(VARIANT.preprocessing, mean=(0.0, 0.0, 0.0))},
    "training.dataset": {"training": TRAINING},
}


def made_of(architecture=VARIANT.architecture, **changes):
    """What a manifest is built from, of one's own checkpoint."""
    return {"variant": replace(own(), architecture=architecture), "settings": SETTINGS} | changes


@pytest.mark.parametrize("field", OTHERWISE)
def test_none_takes_the_place_of_one_that_was_made_from_something_else_unless_it_may(tmp_path, field):
    publish(tmp_path, b"old", **made_of())
    before = hash_files(tmp_path)
    with pytest.raises(PackagingError, match=rf"{field} is .* there, and .*name = .*overwrite = True"):
        publish(tmp_path, b"new", **made_of(**OTHERWISE[field]))
    assert hash_files(tmp_path) == before
    published = publish(tmp_path, b"new", overwrite=True, **made_of(**OTHERWISE[field]))
    assert (published.folder / "saved_model.pb").read_bytes() == b"new"
    with pytest.raises(PackagingError, match=f"{field} is"):
        publish(tmp_path, **made_of())


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": SETTINGS | {"seed": 1}},  # of the inputs that are compared: the weights have their SHA-256
        {"variant": own(epsilon="given"), "names": {"a": "b"}},
        {"source": {"url": None, "path": "moved.pth", "sha256": "ab" * 32}},
        {"training": TRAINING | {"history": {}, "best_epoch": 1}},
    ],
)
def test_the_same_once_more_takes_its_place_whatever_is_known_of_it_now(tmp_path, changes):
    publish(tmp_path, **made_of(**({"training": TRAINING} if "training" in changes else {})))
    published = publish(tmp_path, b"new", **made_of(**changes))
    assert (published.folder / "saved_model.pb").read_bytes() == b"new"
    published.manifest.unlink()  # the one in the folder says it too
    assert publish(tmp_path, b"newer", **made_of(**changes)).manifest.is_file()


def test_another_source_is_found_before_there_are_any_files(tmp_path):
    def planned(labels):
        facts = {"name": NAME, "head": "classification", "weights": "custom", "source": manifest()["source"]}
        return outline(own(), VARIANT.preprocessing, labels, settings=SETTINGS, **facts)

    labels = [Label("0", "tench")]
    with Staging(tmp_path, NAME) as stage:
        stage.require_place(planned(labels))
        publish(tmp_path, **made_of())
        stage.require_place(planned(labels))
        with pytest.raises(PackagingError, match=r"labels is .* there, and None here"):
            stage.require_place(planned(None))
    Staging(tmp_path, NAME, overwrite=True).require_place(planned(None))


@pytest.mark.parametrize("there", [NAME, f"{NAME}.tar.gz", f"{NAME}.keras", f"{NAME}.json"])
def test_what_is_no_artefact_of_ours_is_not_replaced(tmp_path, there):
    if there == NAME:
        (tmp_path / there).mkdir()
        (tmp_path / there / "thesis.txt").write_text("mine")
    else:
        (tmp_path / there).write_text("{}")
    with pytest.raises(PackagingError, match="no artefact of this project"):
        publish(tmp_path)
    assert left_in(tmp_path) == [there]
    publish(tmp_path, overwrite=True)
    assert left_in(tmp_path) == sorted(THREE)


# --- failures leave nothing, or what was there


# What was there: nothing, an artefact, or one with a file of a further format; and whether the new one brings such one.
@pytest.mark.parametrize(
    ("error", "had", "brings"),
    [
        (OSError(5, "broken"), None, b""),
        (OSError(5, "broken"), b"", b"new"),
        (OSError(5, "broken"), b"old", b""),
        (KeyboardInterrupt(), b"old", b"new"),
    ],
)
def test_a_rename_that_fails_restores_what_was_there(tmp_path, monkeypatch, error, had, brings):
    replace, place = os.replace, placing.place

    def publish_and_fail(folder, moment):
        count = iter(range(100))

        def flaky(source, target):
            if next(count) == moment:
                raise error
            replace(source, target)

        def armed(*arguments):
            monkeypatch.setattr(placing.os, "replace", flaky)
            place(*arguments)

        monkeypatch.setattr("utils.artefact.staging.place", armed)
        try:
            publish(folder, b"new", keras=brings)
        finally:
            monkeypatch.undo()

    for moment in range(100):
        folder = tmp_path / str(moment)
        folder.mkdir()
        if had is not None:
            publish(folder, b"old", keras=had)
        before = hash_files(folder)
        try:
            publish_and_fail(folder, moment)
        except (KeyboardInterrupt, PackagingError):
            assert hash_files(folder) == before
            assert len(left_in(folder)) == (0 if had is None else 4 if had else 3)
        else:  # there are no more renames
            assert moment == 3 + (had is not None) * 3 + bool(had) + bool(brings)
            return


CHILD = """
import os, signal, sys, time
sys.path.insert(0, "tests")
from pathlib import Path
from manifests import NAME, Staging, manifest, publish, save
output_dir = Path(sys.argv[1])
"""


def run(code: str, *arguments, **settings) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", CHILD + code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **settings)


def test_after_a_kill_between_renames_the_next_start_restores_what_was_there(tmp_path):
    code = """
from utils.artefact import placing, staging
from utils.files import hash_files
place, replace = placing.place, os.replace
def publish_and_die(folder, moment):
    count = iter(range(100))
    def deadly(source, target):
        if next(count) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
    def armed(*arguments):
        placing.os.replace = deadly
        place(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)  # after the last one, and before tidying
    staging.place = armed
    publish(folder, b"new")
for had, moments in ((True, 7), (False, 4)):
    for moment in range(moments):
        folder = output_dir / f"{had} {moment}"
        folder.mkdir()
        if had:
            publish(folder, b"old")
        before = hash_files(folder)
        if (child := os.fork()) == 0:
            publish_and_die(folder, moment)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        Staging(folder, NAME).discard()
        if moment < moments - 1:
            assert hash_files(folder) == before, folder
        else:
            assert (folder / NAME / "saved_model.pb").read_bytes() == b"new"
        assert not list(folder.glob(".*")), folder
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_killed_process_leaves_nothing_under_the_final_names_and_its_rest_is_removed_next_time(tmp_path):
    code = "stage = Staging(output_dir, NAME); save(stage.model_dir); os.kill(os.getpid(), signal.SIGKILL)"
    assert run(code, tmp_path).returncode == -signal.SIGKILL
    (rest,) = left_in(tmp_path)
    assert rest.startswith(f".{NAME}.partial-")
    other = Staging(tmp_path, "convmixer_tiny_fe")
    assert rest in left_in(tmp_path)  # another artefact's
    other.discard()
    Staging(tmp_path, NAME).discard()
    assert left_in(tmp_path) == []


def test_what_a_live_process_is_writing_is_left_alone_and_both_can_publish(tmp_path):
    code = """
stage = Staging(output_dir, NAME)
save(stage.model_dir, b"theirs")
stage.unpacked_candidate()
print("ready", flush=True)
sys.stdin.readline()
stage.publish(manifest(stage.files))
"""
    command, pipe = [sys.executable, "-c", CHILD + code, tmp_path], subprocess.PIPE
    child = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe)
    assert child.stdout.readline() == b"ready\n"
    publish(tmp_path, b"ours")
    assert (tmp_path / NAME / "saved_model.pb").read_bytes() == b"ours"
    child.communicate(b"go\n", timeout=300)
    assert child.returncode == 0
    assert (tmp_path / NAME / "saved_model.pb").read_bytes() == b"theirs"
    assert left_in(tmp_path) == sorted(THREE)


def test_the_end_of_the_program_removes_an_unfinished_staging_and_that_of_a_forked_child_does_not(tmp_path):
    code = """
stage = Staging(output_dir, NAME)
save(stage.model_dir)
child = os.fork()
if child == 0:
    sys.exit()
os.waitpid(child, 0)
assert (stage.model_dir / "saved_model.pb").exists()
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert left_in(tmp_path) == []


def test_where_locks_do_not_work_old_remains_are_removed_and_nobody_takes_himself_for_a_dead_one(tmp_path, monkeypatch):
    def unsupported(*arguments):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(placing.fcntl, "flock", unsupported)
    for age, name in ((60, "young"), (10**6, "ancient")):
        (tmp_path / f".{NAME}.partial-{name}").mkdir()
        os.utime(tmp_path / f".{NAME}.partial-{name}", (time.time() - age,) * 2)
    publish(tmp_path)
    assert left_in(tmp_path) == sorted([f".{NAME}.partial-young", *THREE])
    monkeypatch.setattr(placing, "_STALE_SECONDS", -1)
    publish(tmp_path)
    assert left_in(tmp_path) == sorted(THREE)


# --- output folders that will not do


def test_a_file_in_the_place_of_the_output_folder_is_an_error(tmp_path):
    (tmp_path / "exports").write_text("mine")
    for output_dir in (tmp_path / "exports", tmp_path / "exports" / "deeper"):
        with pytest.raises(PackagingError, match=r"output_dir = .*exports.* is a file, or inside one"):
            Staging(output_dir, NAME)
    assert (tmp_path / "exports").read_text() == "mine"


def test_an_output_folder_without_permission_is_an_error():
    """As another user where this is root, whom no permission stops."""
    with tempfile.TemporaryDirectory() as folder:
        locked = Path(folder) / "locked"
        locked.mkdir()
        locked.chmod(0o555)
        Path(folder).chmod(0o755)
        done = run("os.geteuid() or os.seteuid(65534); Staging(output_dir, NAME)", locked)
        assert "PackagingError: output_dir" in done.stderr, done.stderr
        assert "cannot be written" in done.stderr
        assert left_in(locked) == []
        locked.chmod(0o755)


def test_too_little_space_is_an_error_before_anything_is_written(tmp_path):
    with pytest.raises(PackagingError, match=r"MB free, and 1,000,000,000,000 MB are needed"):
        Staging(tmp_path, NAME, needed_bytes=10**18)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("step", ["save", "publish"])
def test_a_disk_that_fills_up_is_an_error_and_leaves_what_was_there(tmp_path, step):
    """RLIMIT_FSIZE fails a write half-way, as a full disk does, in whatever file it happens."""
    publish(tmp_path, b"old")
    before = hash_files(tmp_path)
    code = """
import resource
limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with Staging(output_dir, NAME) as stage:
    sys.argv[2] == "save" and limit()
    save(stage.model_dir, os.urandom(300_000))
    stage.unpacked_candidate()
    limit()
    stage.publish(manifest(stage.files))
"""
    done = run(code, tmp_path, step)
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("utils.errors.PackagingError"), done.stderr
    assert "choose another folder" in message
    assert hash_files(tmp_path) == before
    assert left_in(tmp_path) == sorted(THREE)


def test_a_full_disk_that_tensorflow_reports_is_recognised(tmp_path):
    with pytest.raises(PackagingError, match="no space was left"), Staging(tmp_path, NAME):
        raise RuntimeError("/x/variables.data; No space left on device")


@pytest.mark.parametrize("name", ["", "../up", ".hidden", "a.json", "é", "x" * 129, None])
def test_a_name_that_cannot_be_a_file_s_is_an_error(tmp_path, name):
    with pytest.raises(PackagingError, match="name is "):
        Staging(tmp_path, name)
    assert left_in(tmp_path) == []
