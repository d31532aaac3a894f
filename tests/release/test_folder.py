"""A release's folder: what is in its lists, what is refused, and parts that become one."""

import hashlib
import json
import shutil

import manifests
import pytest
from batches import CLASSIFIER, FEATURES, KERAS, PLAIN, edit, flip, run, sums_of

from utils.artefact import lite_file
from utils.batch import command as batch
from utils.files import hash_file
from utils.release.command import main as release
from utils.release.folder import write_release
from utils.release.index import INDEX, LATENCY, PAGE, SUMS, TABLE

pytestmark = pytest.mark.usefixtures("stand_in_conversions")


@pytest.fixture
def published(both_heads, tmp_path):
    """What a release starts from: tarballs and manifests alone."""
    folder = tmp_path / "published"
    folder.mkdir()
    for path in [*both_heads.glob("*.tar.gz"), *both_heads.glob("mixer*.json")]:
        shutil.copy(path, folder)
    return folder


def test_sums_index_cards_and_table_are_of_the_files_that_are_there(made):
    sums = sums_of(made)
    made_from = {f"{n}{end}" for n in (CLASSIFIER, FEATURES) for end in (".tar.gz", ".json", ".md")}
    assert set(sums) == made_from | {"index.json", "TABLE.md", "models.html"}
    assert sums == {name: hashlib.sha256((made / name).read_bytes()).hexdigest() for name in sums}
    (first, second) = index_of(made)
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
    assert {name for name in sums_of(tmp_path) if name.endswith(".gz")} == {f"{n}.tar.gz" for n in (FEATURES, PLAIN[1])}


def assert_refused(folder, said, capsys):
    assert release([str(folder)]) == 1
    assert said in capsys.readouterr().err


def index_of(folder):
    return json.loads((folder / INDEX).read_text())["artefacts"]


def table_of(folder):
    headings, _, *rows = (line.strip("| ").split(" | ") for line in (folder / TABLE).read_text().splitlines())
    return [dict(zip(headings, [cell.strip() for cell in row], strict=False)) for row in rows]


def test_release_of_tarballs_and_manifests_alone_is_all_or_nothing(published, both_heads, tmp_path, capsys):
    (published / "verify.pyz").write_bytes(b"verifier")
    assert release([str(published)]) == 0
    assert sums_of(published)["verify.pyz"] == hashlib.sha256(b"verifier").hexdigest()
    for name in ("TABLE.md", "index.json", "models.html"):
        assert (published / name).read_bytes() == (both_heads / name).read_bytes()
    flip(published / f"{FEATURES}.tar.gz")
    assert_refused(published, f"{FEATURES}.tar.gz is not the one", capsys)
    shutil.copy(both_heads / f"{FEATURES}.tar.gz", published)
    (published / f"{FEATURES}.json").unlink()
    assert_refused(published, f"{FEATURES}.json is no published manifest", capsys)
    (tmp_path / "empty").mkdir()
    assert release([str(tmp_path / "empty")]) == 1


@pytest.mark.parametrize("stray", [f"{FEATURES}.keras", "mine_on_val.json", "x.tflite.json"])
def test_what_would_be_published_without_a_sum_is_refused(published, stray, capsys):
    (published / stray).write_text("{}")
    assert_refused(published, f"{stray} would be published without a sum", capsys)
    assert not (published / SUMS).exists()
    (published / stray).rename(published / "notes.txt")  # which nobody publishes
    assert release([str(published)]) == 0
    assert release([str(published)]) == 0  # what it wrote itself is in its way neither
    (published / stray).write_text("{}")
    write_release(published, {})  # as a batch does, in a folder where people work
    assert stray not in sums_of(published)


def test_custom_weights_would_be_published_without_a_sum_too(published, capsys):
    edit(published, lambda m: m.update(training={"epochs": 1}))
    assert_refused(published, f"{CLASSIFIER}.json, {CLASSIFIER}.tar.gz would be published without a sum", capsys)


def test_a_release_has_the_further_files_that_manifests_tell_of(tmp_path, capsys):
    options = ["--variants", "convmixer_tiny", "mixer_tiny", "--checkpoint", "synthetic", "--heads", "fe"]
    assert batch.main([*options, "--formats", f"{KERAS}, onnx", "--output-dir", str(tmp_path)]) == 0
    name = "convmixer_tiny_fe_synthetic"
    entry, mixer = index_of(tmp_path)
    assert (entry["keras_bytes"], entry["onnx_bytes"], mixer["onnx_bytes"]) == (500_000, 500_000, None)
    for file in (f"{name}.keras", f"{name}.onnx"):
        assert entry["files"][file] == sums_of(tmp_path)[file] == hash_file(tmp_path / file)
    assert [row[".onnx"] for row in table_of(tmp_path)] == ["0.5 MB", ""]
    assert f'InferenceSession("{name}.onnx")' in (tmp_path / f"{name}.md").read_text()
    assert release([str(tmp_path)]) == 0
    flip(tmp_path / f"{name}.onnx")
    assert_refused(tmp_path, f"{name}.onnx is not the one that its manifest describes", capsys)
    (tmp_path / f"{name}.onnx").unlink()
    assert_refused(tmp_path, f"{name}.onnx cannot be read", capsys)
    write_release(tmp_path, {})  # as a batch does, which leaves that artefact out
    assert [entry["name"] for entry in index_of(tmp_path)] == [FEATURES]
    assert ".onnx" not in (tmp_path / TABLE).read_text()


def test_release_of_two_checkpoints_for_one_variant_is_refused(published, capsys):
    edit(published, lambda m: m["source"].update(sha256="5" * 64))
    assert release([str(published)]) == 1
    said = capsys.readouterr().err
    for part in ("mixer_tiny: its synthetic artefacts were made from 2", f"{'5' * 64}: {CLASSIFIER}", FEATURES):
        assert part in said
    assert not (published / "SHA256SUMS").exists()


def test_a_release_lists_tflite_files_that_are_what_their_manifests_say(published, capsys):
    lite = manifests.lite(published, CLASSIFIER)
    assert release([str(published)]) == 0
    (entry,) = [e for e in index_of(published) if e["derived_from"]]
    assert (entry["file"], entry["bytes"]) == (lite.name, lite.stat().st_size)
    assert entry["files"] == {name: hash_file(published / name) for name in (lite.name, f"{lite.name}.json")}
    assert sums_of(published).items() >= entry["files"].items()
    assert f"`{lite.name}`" in [row["model"] for row in table_of(published)]
    lite_file.pack_lite(published / "model", {"manifest.json": b"{}", "golden.npz": b"golden"}, lite)
    assert_refused(published, "the manifest inside is another one", capsys)
    manifests.lite(published, CLASSIFIER, weights="custom")
    write_release(published, {})
    assert lite.name not in sums_of(published)


LATENCY_OF = {"milliseconds": 115.2, "source_milliseconds": 109.7, "times": 1.05, "framework": "JAX"}
LATENCY_OF |= {"machine": "a machine", "threads": 2}


def measure(folder, sha256=None, **figures):
    """Leaves what the benchmark of latency does."""
    told = {sha256 or hash_file(folder / f"{CLASSIFIER}.tar.gz"): LATENCY_OF | figures}
    (folder / LATENCY).parent.mkdir(exist_ok=True)
    (folder / LATENCY).write_text(json.dumps(told))


def test_a_release_tells_the_latencies_that_were_measured_of_its_artefacts(published):
    manifests.lite(published, CLASSIFIER)
    measure(published)
    assert release([str(published)]) == 0  # what was left is not in its way
    assert [entry["latency"] for entry in index_of(published)] == [LATENCY_OF, None, None]
    assert [row["latency"] for row in table_of(published)] == ["115 ms, 1.05 times", "", ""]
    assert "1.05×" in (published / PAGE).read_text()
    measure(published, sha256="0" * 64)  # of a tarball that was made anew since
    assert release([str(published)]) == 0
    assert [entry["latency"] for entry in index_of(published)] == [None] * 3
    assert "latency" not in table_of(published)[0]


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"milliseconds": 0}, ".milliseconds is 0"),
        ({"source_milliseconds": -1.0}, ".source_milliseconds is"),
        ({"times": float("inf")}, ".times is"),
        ({"times": True}, ".times is"),
        ({"framework": "\ud800"}, ".framework is"),
        ({"machine": " "}, ".machine is"),
        ({"threads": 1.5}, ".threads is"),
    ],
)
def test_latencies_that_none_can_be_are_refused(published, capsys, figures, said):
    measure(published, **figures)
    assert release([str(published)]) == 1
    printed = capsys.readouterr().err
    for part in (str(published / LATENCY), said, "benchmarks.release_latency"):
        assert part in printed
    assert not (published / INDEX).exists()


def test_a_smaller_file_of_an_artefact_that_was_made_anew_is_not_released(published, capsys):
    lite = manifests.lite(published, CLASSIFIER, derived_files={"saved_model.pb": "0" * 64})
    assert_refused(published, f"{lite.name} is smaller than an artefact that was converted again", capsys)
    write_release(published, {})  # as a batch does, which leaves it out
    assert lite.name not in sums_of(published)


def test_releases_in_parts_become_one_as_if_they_had_been_one(both_heads, tmp_path):
    index = index_of(both_heads)
    for number, entry in enumerate(index):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / INDEX).write_text(json.dumps({"artefacts": [entry]}))
    parts = [str(tmp_path / str(number)) for number in range(len(index))]
    assert release([str(tmp_path / "all"), "--merge", *parts]) == 0
    for name in (INDEX, SUMS, TABLE, PAGE):
        assert (tmp_path / "all" / name).read_text() == (both_heads / name).read_text(), name
    assert release([str(tmp_path / "again"), "--merge", parts[0], parts[0]]) == 1
    assert release([str(tmp_path / "again"), "--merge", str(tmp_path)]) == 1
    assert not (tmp_path / "again").exists()
