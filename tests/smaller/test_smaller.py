"""Smaller files: half the bytes or fewer, the same interface, and each held to the source by its own tolerance."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import artefacts
import pytest
import tiny

from utils.artefact import lite_file
from utils.artefact.manifest import packed_manifest
from utils.artefact.opening import open_model
from utils.errors import PackagingError, ParityError
from utils.export import saved_model
from utils.export.onnx_to_tf import export_tensorflow
from utils.files import hash_file
from utils.smaller import command as smaller
from utils.smaller.command import KINDS, make_smaller
from utils.verify import numbers
from utils.verify.command import main as verify

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow  # TFLite's converter takes seconds even for the tiny models
CONVMIXER, MIXER = "convmixer_tiny_classification", "mixer_tiny_classification"
FILES = [*(f"{CONVMIXER}_{storage}.tflite" for storage in ("float32", "float16", "int8")), f"{MIXER}_int8.tflite"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Smaller files of the tiny ConvMixer and Mixer, beside what they were made from."""
    folder, made = tmp_path_factory.mktemp("smaller"), []
    for name, kinds in ((CONVMIXER, KINDS), (MIXER, ("tflite-int8",))):
        tarball = artefacts.publish(folder, name.removesuffix("_classification")).tarball
        made += [make_smaller(tarball, kind).name for kind in kinds]
    assert made == FILES
    return folder


def manifest_of(path):
    return json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", FILES)
def test_file_verifies_itself_and_is_of_tflite_s_own_operations(folder, file, capsys):
    assert verify([str(folder / file)]) == 0
    assert "right numbers" in capsys.readouterr().out
    manifest = manifest_of(folder / file)
    assert manifest["operators"]["GELU"] == (7 if file.startswith(CONVMIXER) else 4)
    assert not {"ERF", "TANH", "BROADCAST_TO"} & set(manifest["operators"])
    assert not [op for op in manifest["operators"] if op.startswith(("Flex", "CUSTOM", "STABLEHLO"))]
    assert all(0 < row["relative_l2"] <= row["tolerance"] for row in manifest["parity"]["rows"])
    name = file.removesuffix(f"_{manifest['storage']}.tflite")
    assert manifest["derived_from"]["files"] == manifest_of(folder / name)["files"]


def test_tolerances_grow_as_weights_are_stored_in_fewer_bits(folder):
    single, half, byte = (manifest_of(folder / file)["parity"]["tolerance"]["logits"] for file in FILES[:3])
    assert 1e-5 == single < half < byte < 0.1


def test_unzip_finds_what_rides_in_it(folder, tmp_path):
    path = folder / f"{MIXER}_int8.tflite"
    with zipfile.ZipFile(path) as archive:
        inside = json.loads(archive.read("manifest.json"))
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}  # MediaPipe's condition
        assert set(archive.namelist()) == {"manifest.json", "golden.npz"}
    assert inside == packed_manifest(manifest_of(path))
    assert not {"seconds", "minimum_tensorflow"} & set(inside)
    model = lite_file.unpack_lite(path, tmp_path / "unpacked") / "model.tflite"
    assert hash_file(model) == inside["files"]["model.tflite"]
    assert path.read_bytes().startswith(model.read_bytes())


def flipped(path, folder):
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1  # in the model
    (folder / path.name).write_bytes(data)


def without_archive(path, folder):
    shutil.copyfile(lite_file.unpack_lite(path, folder / "u") / "model.tflite", folder / path.name)


def with_more(path, folder):
    shutil.copyfile(path, folder / path.name)
    with zipfile.ZipFile(folder / path.name, "a") as archive:
        archive.writestr("../../evil", b"evil")


@pytest.mark.parametrize(
    ("change", "stage"), [(flipped, "files"), (without_archive, "contents"), (with_more, "contents")]
)
def test_damaged_file_is_named_and_not_run(folder, tmp_path, capsys, monkeypatch, change, stage):
    monkeypatch.setattr(numbers, "check_lite", lambda *_: pytest.fail("the model was run"))
    change(folder / FILES[0], tmp_path)
    assert verify([str(tmp_path / FILES[0])]) == 1
    (failed,) = [line for line in capsys.readouterr().out.splitlines() if line.split()[1:2] == ["FAIL"]]
    assert failed.split()[0] == stage
    assert not list(tmp_path.rglob("evil"))


def test_tanh_gelu_in_the_converted_model_fails_its_gate_and_leaves_nothing(folder, tmp_path, monkeypatch):
    from utils.smaller import making

    graph = tiny.graph("convmixer_tiny")
    for node in graph.graph.node:
        if node.op_type == "Gelu":
            node.attribute[0].s = b"tanh"
    exported = export_tensorflow(graph, tiny.weights("convmixer_tiny"), 48, "logits")
    faulty = saved_model.save_model(exported, tmp_path / "f")
    monkeypatch.setattr(making, "_in_plain_operations", lambda *_: faulty)
    with pytest.raises(ParityError, match="logits, golden"):
        making.make_lite(open_model(str(folder / CONVMIXER)), "float32", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


# --- the command


def test_one_file_that_fails_does_not_stop_the_others_and_is_the_status(folder, tmp_path, capfd):
    arguments = [str(tmp_path / "absent.tar.gz"), str(folder / CONVMIXER), "--output-dir", str(tmp_path)]
    assert smaller.main([*arguments, "--kinds", "tflite-float32"]) == 1
    shown = capfd.readouterr()
    assert "absent.tar.gz': there is no such file" in shown.err
    assert f"{FILES[0]}: 0." in shown.out
    assert "XNNPACK" not in shown.err  # LiteRT's chatter
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILES[0], f"{FILES[0]}.json"]


def test_what_was_altered_or_renamed_is_refused(folder, tmp_path):
    shutil.copyfile(folder / f"{CONVMIXER}.tar.gz", tmp_path / "renamed.tar.gz")
    with pytest.raises(PackagingError, match="another artefact in this one's place, or a renamed file"):
        make_smaller(tmp_path / "renamed.tar.gz", "tflite-int8", tmp_path / "out")
    shutil.copytree(folder / CONVMIXER, tmp_path / CONVMIXER)
    (tmp_path / CONVMIXER / "variables" / "more").write_bytes(b"")
    with pytest.raises(PackagingError, match="variables/more is not in the manifest"):
        make_smaller(tmp_path / CONVMIXER, "tflite-int8", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_feature_extractor_gets_no_tflite_file(tmp_path):
    assert make_smaller(artefacts.publish(tmp_path, head="fe").tarball, KINDS[0]) is None


def test_a_file_of_another_source_is_replaced_only_where_that_is_asked_for(folder, tmp_path, monkeypatch):
    from utils.smaller import making

    monkeypatch.setattr(making, "_make", lambda *_: pytest.fail("made"))
    again = lambda **options: make_smaller(folder / CONVMIXER, "tflite-float32", tmp_path, **options)  # noqa: E731
    for name in (FILES[0], beside := f"{FILES[0]}.json"):
        shutil.copyfile(folder / name, tmp_path / name)
    with pytest.raises(pytest.fail.Exception, match="made"):
        again()
    manifest = manifest_of(tmp_path / FILES[0])
    manifest["source"]["sha256"] = "12" * 32
    (tmp_path / beside).write_text(json.dumps(manifest))
    with pytest.raises(PackagingError, match=rf"{FILES[0]} is there already.*{'12' * 32}.*--overwrite"):
        again()
    with pytest.raises(pytest.fail.Exception, match="made"):
        again(overwrite=True)
    (tmp_path / beside).unlink()
    with pytest.raises(PackagingError, match="no artefact of this project"):
        again()


def test_same_artefact_gives_the_same_bytes_in_another_process(folder, tmp_path):
    """Alone and after another file, from the folder and from the tarball, with other orders of hashes."""
    for seed, sources in {"1": [CONVMIXER], "2": [f"{MIXER}.tar.gz", f"{CONVMIXER}.tar.gz"]}.items():
        command = [sys.executable, "-m", "utils.smaller", *(str(folder / source) for source in sources)]
        options = ["--output-dir", str(tmp_path / seed), "--kinds", "tflite-int8"]
        subprocess.run([*command, *options], cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}, check=True)
    one, other = (tmp_path / seed / f"{CONVMIXER}_int8.tflite" for seed in ("1", "2"))
    assert one.read_bytes() == other.read_bytes()
