"""Manifest, model card, and publishing: folder, tarball and manifest appear together, or nothing does."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from manifests import NAME, ROW, TENSORS, VARIANT, manifest, publish, save

from utils.artefact import placing
from utils.artefact.manifest import UNLISTED, check_manifest, installed_versions, packed_manifest
from utils.artefact.staging import Staging, hash_files, model_card
from utils.artefact.tarball import extract_tarball, hash_tarball
from utils.errors import PackagingError
from utils.models.variants import VARIANTS, Preprocessing

ROOT = Path(__file__).parents[2]


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


TRAINING = {
    "history": {"val_accuracy": [0.5, 0.93214, 0.9], "loss": [2.0, 0.3, 0.1]},
    "best_epoch": 2,
    "dataset": "digits",
}
THREE = [NAME, f"{NAME}.json", f"{NAME}.tar.gz"]


# --- publishing


def test_publishing_leaves_folder_tarball_and_manifest_and_nothing_else(tmp_path):
    published = publish(tmp_path / "new" / "exports")
    assert left_in(tmp_path / "new" / "exports") == sorted(THREE)
    assert published == tuple(tmp_path / "new" / "exports" / name for name in (THREE[0], THREE[2], THREE[1]))
    inside = published.folder / "assets.extra" / "manifest.json"
    beside = json.loads(published.manifest.read_text(encoding="utf-8"))
    assert beside["tarball"] == {
        "sha256": hashlib.sha256(published.tarball.read_bytes()).hexdigest(),
        "bytes": published.tarball.stat().st_size,
    }
    text = inside.read_text(encoding="utf-8")
    assert json.loads(text) == packed_manifest(beside)
    assert (published.folder / "assets.extra" / "README.md").read_text("utf-8") == model_card(json.loads(text))


def test_the_tarball_is_the_folder_and_the_manifest_lists_its_files(tmp_path):
    published = publish(tmp_path)
    assert hash_tarball(published.tarball) == hash_files(published.folder)
    listed = json.loads(published.manifest.read_text("utf-8"))["files"]
    everything = hash_files(published.folder)
    assert listed == {path: value for path, value in everything.items() if path not in UNLISTED}
    assert set(everything) - set(listed) == set(UNLISTED)
    assert "assets.extra/labels.tsv" in listed


def test_publishing_the_same_again_gives_the_same_bytes(tmp_path):
    first = publish(tmp_path / "a").tarball.read_bytes()
    assert publish(tmp_path / "b").tarball.read_bytes() == first


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
    check_manifest(inside)
    with Staging(tmp_path / "c", NAME) as stage, pytest.raises(PackagingError, match="has no figures"):
        stage.publish(inside)
    assert f"`{NAME}.json`" in (tmp_path / "a" / NAME / "assets.extra" / "README.md").read_text(encoding="utf-8")


def test_publishing_again_replaces_all_three(tmp_path):
    publish(tmp_path, b"first")
    published = publish(tmp_path, b"second")
    assert (published.folder / "saved_model.pb").read_bytes() == b"second"
    assert (extract_tarball(published.tarball, tmp_path / "x") / "saved_model.pb").read_bytes() == b"second"
    assert left_in(tmp_path) == sorted([*THREE, "x"])


def test_the_candidate_is_what_comes_out_of_a_tarball(tmp_path):
    with Staging(tmp_path, NAME) as stage:
        save(stage.model_dir)
        unpacked = stage.unpacked_candidate()
        assert unpacked != stage.model_dir
        assert hash_files(unpacked) == hash_files(stage.model_dir) == stage.files
        assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
        stage.discard()
    assert left_in(tmp_path) == []


def test_a_staging_serves_several_blocks_until_one_fails(tmp_path):
    stage = Staging(tmp_path, NAME)
    with stage:
        save(stage.model_dir)
    with stage:
        stage.unpacked_candidate()
    with pytest.raises(KeyError), stage:
        raise KeyError
    assert left_in(tmp_path) == []
    with pytest.raises(PackagingError, match="is over"), stage:
        pass


CHANGES_AFTER_PARITY = {
    "a changed graph": lambda folder: (folder / "saved_model.pb").write_bytes(b"other"),
    "another file": lambda folder: (folder / "variables" / "more").write_bytes(b""),
    "a missing file": lambda folder: (folder / "assets.extra" / "labels.tsv").unlink(),
}


@pytest.mark.parametrize("change", CHANGES_AFTER_PARITY)
def test_what_parity_did_not_see_is_not_published(tmp_path, change):
    publish(tmp_path, b"old")
    before = hash_files(tmp_path)
    stage = Staging(tmp_path, NAME)
    save(stage.model_dir)
    stage.unpacked_candidate()
    CHANGES_AFTER_PARITY[change](stage.model_dir)
    with pytest.raises(PackagingError, match="the tarball differs from what parity was run on"), stage:
        stage.publish(manifest(stage.files))
    assert hash_files(tmp_path) == before


def test_a_manifest_of_other_files_or_another_name_is_not_published(tmp_path):
    stage = Staging(tmp_path, NAME)
    save(stage.model_dir)
    with pytest.raises(PackagingError, match="was not verified"):
        stage.publish(manifest(hash_files(stage.model_dir)))
    stage.unpacked_candidate()
    with pytest.raises(PackagingError, match=r"the manifest differs .* in assets.extra/labels.tsv"):
        stage.publish(manifest({"saved_model.pb": stage.files["saved_model.pb"]}))
    with pytest.raises(PackagingError, match="convmixer_tiny_fe"):
        stage.publish(manifest(stage.files, name="convmixer_tiny_fe"))
    stage.discard()
    assert left_in(tmp_path) == []


def test_a_folder_without_a_saved_model_is_no_candidate(tmp_path):
    stage = Staging(tmp_path, NAME)
    stage.model_dir.mkdir()
    with pytest.raises(PackagingError, match=r"no saved_model\.pb"), stage:
        stage.unpacked_candidate()
    assert left_in(tmp_path) == []


# --- failures leave nothing, or what was there


@pytest.mark.parametrize("error", [ValueError("parity"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_any_exception_removes_the_partial_work_and_passes(tmp_path, error):
    stage = Staging(tmp_path, NAME)
    save(stage.model_dir)
    with pytest.raises(type(error)) as caught, stage:
        raise error
    assert caught.value is error
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(5, "broken"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("had", [True, False], ids=["replacing", "new"])
@pytest.mark.parametrize("failing", range(6))
def test_a_rename_that_fails_restores_what_was_there(tmp_path, monkeypatch, failing, had, error):
    if had:
        publish(tmp_path, b"old")
    before = hash_files(tmp_path) if had else {}
    replace, count = os.replace, iter(range(100))
    armed = []

    def flaky(source, target):
        if armed and next(count) == failing:
            armed.clear()
            raise error
        replace(source, target)

    place = placing.place
    monkeypatch.setattr("utils.artefact.staging.place", lambda *a: (armed.append(1), place(*a)))
    monkeypatch.setattr(placing.os, "replace", flaky)
    renames = 6 if had else 3
    if failing >= renames:
        return
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else PackagingError):
        publish(tmp_path, b"new")
    assert hash_files(tmp_path) == before
    assert left_in(tmp_path) == (sorted(THREE) if had else [])


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


KILL_AT_RENAME = """
from utils.artefact import placing, staging
place, replace, count = placing.place, os.replace, iter(range(100))
def deadly(source, target):
    if next(count) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
def armed(*arguments):
    placing.os.replace = deadly
    place(*arguments)
staging.place = armed
publish(output_dir, b"new")
"""


@pytest.mark.parametrize("had", [True, False], ids=["replacing", "new"])
@pytest.mark.parametrize("moment", range(6))
def test_after_a_kill_between_renames_the_next_start_restores_what_was_there(tmp_path, moment, had):
    if had:
        publish(tmp_path, b"old")
    elif moment >= 3:
        return
    before = hash_files(tmp_path) if had else {}
    assert run(KILL_AT_RENAME, tmp_path, moment).returncode == -signal.SIGKILL
    Staging(tmp_path, NAME).discard()
    assert hash_files(tmp_path) == before
    assert left_in(tmp_path) == (sorted(THREE) if had else [])


def test_after_a_kill_between_the_last_rename_and_tidying_the_new_ones_stay(tmp_path):
    publish(tmp_path, b"old")
    code = """
from utils.artefact import staging
place = staging.place
staging.place = lambda *arguments: (place(*arguments), os.kill(os.getpid(), signal.SIGKILL))
publish(output_dir, b"new")
"""
    assert run(code, tmp_path).returncode == -signal.SIGKILL
    Staging(tmp_path, NAME).discard()
    assert (tmp_path / NAME / "saved_model.pb").read_bytes() == b"new"
    assert left_in(tmp_path) == sorted(THREE)


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
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD + code, tmp_path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout.readline() == b"ready\n"
    publish(tmp_path, b"ours")
    assert (tmp_path / NAME / "saved_model.pb").read_bytes() == b"ours"
    child.communicate(b"go\n", timeout=300)
    assert child.returncode == 0
    assert (tmp_path / NAME / "saved_model.pb").read_bytes() == b"theirs"
    assert left_in(tmp_path) == sorted(THREE)


def test_the_end_of_the_program_removes_an_unfinished_staging(tmp_path):
    assert run("stage = Staging(output_dir, NAME); save(stage.model_dir)", tmp_path).returncode == 0
    assert left_in(tmp_path) == []


def test_the_end_of_a_forked_child_leaves_its_parent_s_staging_alone(tmp_path):
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


def test_where_locks_do_not_work_only_old_remains_are_removed(tmp_path, monkeypatch):
    def unsupported(*arguments):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(placing.fcntl, "flock", unsupported)
    for age, name in ((60, "young"), (10**6, "ancient")):
        (tmp_path / f".{NAME}.partial-{name}").mkdir()
        os.utime(tmp_path / f".{NAME}.partial-{name}", (time.time() - age,) * 2)
    publish(tmp_path)
    assert left_in(tmp_path) == sorted([f".{NAME}.partial-young", *THREE])


def test_where_locks_do_not_work_a_long_conversion_does_not_take_itself_for_a_dead_one(tmp_path, monkeypatch):
    monkeypatch.setattr(placing, "_STALE_SECONDS", -1)
    monkeypatch.setattr(placing.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(95, "unsupported")))
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


def test_a_really_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        with pytest.raises(PackagingError, match="no space was left"), Staging(disk, NAME) as stage:
            save(stage.model_dir, bytes(5_000_000))
        assert left_in(disk) == []
        stage = Staging(disk, NAME)
        save(stage.model_dir, os.urandom(700_000))
        with pytest.raises(PackagingError, match="No space left on device"), stage:
            stage.unpacked_candidate()
        assert left_in(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_full_disk_that_tensorflow_reports_is_recognised(tmp_path):
    class ResourceExhaustedError(Exception):
        pass

    with pytest.raises(PackagingError, match="no space was left"), Staging(tmp_path, NAME):
        raise ResourceExhaustedError("/x/variables.data; No space left on device")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "a.json", "é", "x" * 129, None])
def test_a_name_that_cannot_be_a_file_s_is_an_error(tmp_path, name):
    with pytest.raises(PackagingError, match="expected letters"):
        Staging(tmp_path, name)
    assert left_in(tmp_path) == []


# --- the manifest


def test_the_manifest_has_the_documented_fields():
    found = manifest()
    assert list(found)[:12] == [
        "name",
        "variant",
        "head",
        "weights",
        "source",
        "versions",
        "parameters",
        "signatures",
        "parity",
        "seconds",
        "peak_memory_mb",
        "files",
    ]
    assert found["variant"] == "convmixer_tiny"
    assert set(found["source"]) == {"url", "path", "sha256"}
    assert found["seconds"]["load"] == 0.123
    assert found["model"]["licence"] == VARIANT.licence
    assert found["model"]["preprocessing"]["mean"] == list(VARIANT.preprocessing.mean)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "training" not in found


def test_optional_fields_are_kept():
    other = replace(VARIANT.preprocessing, resize=100, crop=96)
    found = manifest(
        training=TRAINING,
        settings={"seed": 3},
        preprocessing=other,
        peak_memory_mb_by_stage={"export": 700.0},
    )
    assert found["training"] == TRAINING
    assert found["settings"] == {"seed": 3}
    assert found["model"]["preprocessing"]["crop"] == 96
    assert found["peak_memory_mb_by_stage"] == {"export": 700.0}


OFFICIAL = {"weights": "official"}
WRONG = {
    "parity that failed": {"parity": {"passed": False, "tolerance": {}, "rows": [ROW]}},
    "parity without rows": {"parity": {"passed": True, "tolerance": {}, "rows": []}},
    "parity with a failed row": {"parity": {"passed": True, "tolerance": {}, "rows": [ROW | {"passed": False}]}},
    "parity of None": {"parity": None},
    "unknown weights": {"weights": "borrowed"},
    "synthetic weights under a plain name": {"weights": "synthetic"},
    "other weights under a synthetic name": {"name": f"{NAME}_synthetic"},
    "official weights without a url": OFFICIAL,
    "no SHA-256": {"source": {"url": "https://example.org/a", "path": None, "sha256": None}},
    "a short SHA-256": {"source": {"url": None, "path": "a", "sha256": "abc"}},
    "an unknown head": {"head": "tail"},
    "no versions": {"versions": {}},
    "an unknown version": {"versions": {"tensorflow": None}},
    "no parameters": {"parameters": 0},
    "parameters that are no count": {"parameters": 1.5},
    "no serving_default": {"signatures": {"other": TENSORS}},
    "a signature without outputs": {"signatures": {"serving_default": {"inputs": {}}}},
    "a tensor without shape": {
        "signatures": {"serving_default": TENSORS | {"inputs": {"inputs": {"dtype": "float32"}}}}
    },
    "negative seconds": {"seconds": {"load": -1.0}},
    "seconds of NaN": {"seconds": {"load": float("nan")}},
    "no seconds": {"seconds": {}},
    "no memory": {"peak_memory_mb": 0},
    "no saved_model.pb": {"files": {"other": "ab" * 32}},
    "itself among the files": {"files": {"saved_model.pb": "ab" * 32, "assets.extra/manifest.json": "ab" * 32}},
    "a hash that is none": {"files": {"saved_model.pb": "sha256"}},
    "a path for a name": {"name": "../convmixer"},
    "NaN in the training history": {"training": {"history": {"loss": [float("nan")]}}},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_manifest_is_an_error_that_names_the_field(case):
    with pytest.raises(PackagingError, match="manifest: ") as caught:
        manifest(**WRONG[case])
    fields = {"name", "weights", "source", "training", *WRONG[case]}
    assert any(field in str(caught.value) for field in fields) or "JSON" in str(caught.value)


@pytest.mark.parametrize("field", [field for field in manifest() if field != "model"])
def test_a_manifest_without_a_field_is_an_error_that_names_it(field):
    found = manifest()
    del found[field]
    with pytest.raises(PackagingError, match=field):
        check_manifest(found)


def test_versions_come_from_what_is_installed():
    import numpy

    assert installed_versions(["numpy"]) == {"numpy": numpy.__version__}
    with pytest.raises(PackagingError, match="no-such-library"):
        installed_versions(["numpy", "no-such-library"])


# --- the model card


def test_the_card_tells_what_a_user_needs():
    card = model_card(manifest())
    for text in (
        "# Module mixers-to-tensorflow/convmixer_tiny_classification/1",
        "8,010 parameters",
        "| `serving_default` | `inputs` float32 [B, 48, 48, 3] | `logits` float32 [B, 10] |",
        "shorter side to 50 pixels",
        "[123.675, 116.28, 103.53]",
        'tf.saved_model.load("convmixer_tiny_classification")',
        "hub.load",
        "hub.KerasLayer",
        "TFSMLayer",
        "ab" * 32,
        "`tiny.pth.tar`",
        "| logits | noise | 8 | 1.1e-06 |  |  | 3.2e-06 | 100.0% | 97.5% | 1e-05 |",
        "| gradients, worst of 3 | noise | 3 | 5.5e-06 |",
        "| onnx-tf | 1.10.0 |",
        "[MIT](https://github.com/locuslab/convmixer/blob/main/LICENSE)",
        "@article{trockman2022patches",
    ):
        assert text in card, text


def test_the_card_says_loudly_and_first_that_weights_are_synthetic():
    synthetic = model_card(manifest(name=f"{NAME}_synthetic", weights="synthetic"))
    assert "SYNTHETIC WEIGHTS" in "\n".join(synthetic.splitlines()[:3])
    assert "SYNTHETIC" not in model_card(manifest())


def test_the_card_names_the_accuracy_of_official_weights_only():
    variant = VARIANTS["convmixer_768_32"]
    source = {"url": variant.sources[0].url, "path": None, "sha256": "ab" * 32}
    common = {"variant": variant, "source": source}
    official = manifest(name="convmixer_768_32_classification", weights="official", **common)
    custom = manifest(name="convmixer_768_32_classification", weights="custom", **common)
    synthetic = manifest(name="convmixer_768_32_classification_synthetic", weights="synthetic", **common)
    assert "80.16 %" in model_card(official)
    assert f"<{variant.sources[0].url}>" in model_card(official)
    assert "80.16" not in model_card(custom) + model_card(synthetic)


def test_the_card_claims_the_upstream_licence_for_official_weights_only():
    source = {"url": "https://example.org/a.pth.tar", "path": None, "sha256": "ab" * 32}
    assert "model and its weights are" in model_card(manifest(weights="official", source=source))
    assert "its weights are" not in model_card(manifest())


def test_the_card_does_not_tell_where_on_the_converting_machine_the_file_was():
    assert "private" not in model_card(manifest())


def test_the_card_of_a_fine_tuned_model_tells_its_training():
    found = manifest(training=TRAINING)
    for card in (model_card(found), model_card(packed_manifest(found))):  # beside the tarball, and in it
        assert "| history: val_accuracy | 0.9321 in epoch 2 of 3, the one that was kept |" in card
        assert "| history: loss | 0.3 in epoch 2 of 3, the one that was kept |" in card
        assert "| dataset | digits |" in card
        assert "## Parity with the trained model: passed" in card
        assert "the model as it was trained" in card
        assert "source model" not in card.split("## Licence")[0]
        assert "computes what the trained model computed" in card
        assert "accuracy, robustness" not in card


def test_the_card_of_a_float16_artefact_tells_what_each_part_was_compared_with():
    found = manifest() | {"storage": "float16"}
    for card in (model_card(found), model_card(packed_manifest(found))):
        assert "agree with those of the float32 artefact, kernels rounded" in card
        assert "the source model's outputs for the golden inputs (its variables and gradients: the float32" in card
        assert "the source model with the same checkpoint" not in card
    assert "the source model with the same checkpoint" in model_card(packed_manifest(manifest()))


def test_the_card_of_a_fine_tuned_model_stored_as_float16_claims_no_more_than_that_of_the_model():
    found = manifest(training=TRAINING) | {"storage": "float16"}
    for card in (model_card(found), model_card(packed_manifest(found))):
        assert "## Parity with the trained model: passed" in card
        assert "the trained model's outputs for the golden inputs (its variables and gradients: the float32" in card
        assert "as it was trained, in memory" not in card
        assert "<!-- fine-tunable: false -->" in card
        assert "not called fine-tunable" in card
        assert "source framework's, so" in card
        assert "can be fine-tuned" not in card


def test_the_card_inside_a_tarball_tells_how_to_unpack_it_what_it_needs_and_how_to_send_files():
    signatures = dict.fromkeys(("serving_default", "serving_image", "serving_image_bytes"), TENSORS)
    versions = {"tensorflow": "2.21.0", "minimum_tensorflow": "2.14"}
    card = model_card(packed_manifest(manifest(signatures=signatures, versions=versions)))
    assert f"mkdir {NAME} && tar -xzf {NAME}.tar.gz -C {NAME}" in card
    assert "It needs TensorFlow 2.14 or newer." in card
    assert "The image signatures do this themselves." in card
    assert '["serving_image_bytes"](image_bytes=tf.constant(files))["probabilities"]' in card
    without = model_card(packed_manifest(manifest()))
    assert "image signatures" not in without
    assert "serving_image_bytes" not in without


def test_the_card_of_a_model_fine_tuned_from_synthetic_weights_does_not_say_that_it_knows_nothing():
    found = manifest(name=f"{NAME}_synthetic", weights="synthetic", training=TRAINING)
    card = model_card(found)
    assert "SYNTHETIC WEIGHTS" in card
    assert "fine-tuned from random weights" in card
    assert not re.search("recognises? nothing", card)
    assert re.search("recognises? nothing", model_card(manifest(name=f"{NAME}_synthetic", weights="synthetic")))


def test_the_card_s_code_is_python():
    blocks = model_card(manifest()).split("```python\n")[1:]
    assert len(blocks) == 4
    for block in blocks:
        compile(block.split("```")[0], "card", "exec")


def test_a_bar_or_line_break_in_a_cell_does_not_break_the_table():
    card = model_card(manifest(versions={"odd|name": "1\n2"}))
    assert "| odd\\|name | 1 2 |" in card


def test_other_preprocessing_shows_in_the_card():
    other = Preprocessing(resize=333, crop=320, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.5))
    card = model_card(manifest(preprocessing=other))
    assert "333 pixels" in card
    assert "320 x 320" in card.replace("\n", " ")
    assert "[4, 5, 6.5]" in card
