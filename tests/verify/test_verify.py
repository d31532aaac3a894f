"""What a downloader runs: right copies pass, and each kind of wrong one is named, before anything in it is run."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import asdict, replace
from types import SimpleNamespace

import artefacts
import numpy as np
import onnx_tiny
import proofs
import pytest
import tiny
from hypothesis import given, settings, strategies as st

from utils.artefact.manifest import UNLISTED, packed_manifest
from utils.artefact.record import build_record, record_as_texts
from utils.artefact.tarball import extract_tarball, write_tarball
from utils.errors import PackagingError
from utils.export import onnx_session, onnx_tensors
from utils.families.variants import get_variant
from utils.files import hash_file
from utils.parity.golden import GOLDEN, golden_bytes, make_golden, read_golden
from utils.verify import app as verify_app, numbers
from utils.verify.command import main
from utils.verify.files import SUMS, Check, check_sum

NAME = "convmixer_tiny_classification"
FILES = [f"{NAME}.tar.gz", f"{NAME}.json"]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder as a release has it: tarball, manifest, sums; and the SavedModel's folder."""
    folder = tmp_path_factory.mktemp("published")
    artefacts.publish(folder)
    (folder / SUMS).write_text("".join(f"{hash_file(folder / name)}  {name}\n" for name in FILES))
    return folder


@pytest.fixture
def download(published, tmp_path):
    """A copy to damage: the tarball's path, with manifest and sums beside it."""
    for name in (*FILES, SUMS):
        shutil.copyfile(published / name, tmp_path / name)
    return tmp_path / FILES[0]


@pytest.fixture
def nothing_is_run(monkeypatch):
    """What is not known to be what was published must not be loaded: a SavedModel is a program."""
    for name in ("check_saved_model", "check_lite"):
        monkeypatch.setattr(numbers, name, lambda *_: pytest.fail("the model was loaded"))


def alone(download):
    """Only the tarball, as from a link in a mail."""
    for name in (FILES[1], SUMS):
        (download.parent / name).unlink()
    return download


def repack(download, change):
    """Unpacks, lets `change(folder)` do its work, packs again, and puts matching sums beside it."""
    folder = download.parent / "changed"
    extract_tarball(download, folder)
    change(folder)
    write_tarball(folder, download)
    shutil.rmtree(folder)
    (download.parent / SUMS).write_text(f"{hash_file(download)}  {download.name}\n")
    if (beside := download.with_name(FILES[1])).is_file():
        published = json.loads(beside.read_text())
        published["tarball"]["sha256"] = hash_file(download)
        beside.write_text(json.dumps(published))


def manifest_inside(folder, change):
    path = folder / UNLISTED[0]
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def said(capsys, *paths):
    """Exit status, and what was printed about each file: a list of lines each."""
    status = main([str(path) for path in paths])
    out = capsys.readouterr().out
    return status, [block.splitlines() for block in out.strip().split("\n\n")]


def fails(capsys, path, stage, *texts):
    """The lines about a file that is not right, by a failure of `stage` alone."""
    status, (lines,) = said(capsys, path)
    assert status == 1
    failed = [line for line in lines if line.split()[1:2] == ["FAIL"]]
    assert {line.split()[0] for line in failed} == {stage}, lines
    for text in texts:
        assert text in failed[0]
    assert "right numbers" not in lines[-1]
    return lines


def stages(lines):
    return [tuple(line.split()[:2]) for line in lines[1:-1]]


# --- right copies, usage, and machines that cannot


def test_a_right_copy_passes_every_check_and_says_where(download, capsys):
    status, (lines,) = said(capsys, download)
    assert status == 0
    found = ["sum", "contents", "name", "manifest", "files", "numbers", "numbers"]
    assert stages(lines) == [(stage, "ok") for stage in found]
    assert "This copy gives the right numbers here: TensorFlow 2." in lines[-1]


def test_several_files_are_all_verified_and_one_wrong_one_is_the_status(download, published, tmp_path, capsys):
    shutil.copytree(published / NAME, tmp_path / "a folder of any name")
    alone(download).write_bytes(b"<html>not found</html>")
    paths = download, download.with_name("nothing.tar.gz"), tmp_path / "a folder of any name"
    status, (wrong, missing, right) = said(capsys, *paths)
    assert status == 1
    assert "fetch it again" in wrong[-1]
    assert stages(missing) == [("path", "FAIL")]
    assert "says nothing about this copy" in missing[-1]  # a typing error is no wrong copy
    assert ("manifest", "-") in stages(right)  # none is beside it
    assert "right numbers" in right[-1]


def test_of_a_release_s_folder_every_file_is_verified_and_a_wrong_one_is_the_status(
    published, onnx, download, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(numbers, "check_saved_model", lambda *_: [Check("numbers", True, "")])
    shutil.copytree(published / NAME, tmp_path / NAME)  # unpacked, it is what the tarball holds
    (tmp_path / ".half.tar.gz").touch()
    onnx.write_bytes(onnx.read_bytes()[:5000])
    status, (wrong, right) = said(capsys, tmp_path)
    assert (status, wrong[0], right[0]) == (1, str(onnx), str(download))
    assert "fetch it again" in wrong[-1]
    assert "right numbers" in right[-1]
    assert said(capsys, tmp_path / NAME)[0] == 0


def test_sums_as_other_tools_write_them_are_read_and_fields_of_a_newer_version_are_named(download, capsys, monkeypatch):
    monkeypatch.setattr(numbers, "check_saved_model", lambda *_: [Check("numbers", True, "")])
    download.with_name(FILES[1]).unlink()
    repack(download, lambda folder: manifest_inside(folder, lambda m: m.update(schema=2, builder={"a": 1})))
    (download.parent / SUMS).write_text(f"{'0' * 64} *other.tar.gz\n\n{hash_file(download)} *./{download.name}\n")
    status, (lines,) = said(capsys, download)
    assert status == 0
    assert stages(lines)[:2] == [("sum", "ok"), ("contents", "ok")]
    assert "fields that this version does not know: builder" in lines[2]
    assert "by schema 2, which is newer" in lines[2]


@pytest.mark.parametrize("end", ["fault", "nothing", "interrupt", "usage"])
def test_what_was_not_verified_to_its_end_is_not_right(download, capsys, monkeypatch, end):
    def compute(*_):
        if end == "interrupt":
            raise KeyboardInterrupt
        return {}["numbers"] if end == "fault" else []

    monkeypatch.setattr(numbers, "check_saved_model", compute)
    if end == "usage":
        with pytest.raises(SystemExit) as caught:
            main([])
        assert caught.value.code == 2
        return
    status = main([str(download), str(download.with_name("nothing.tar.gz"))])
    found = capsys.readouterr()
    assert "right numbers" not in found.out
    assert status == (130 if end == "interrupt" else 1)
    assert ("no such file" in found.out) is (end != "interrupt")  # the next file is looked at
    assert ("KeyError: 'numbers'" in found.out) is (end == "fault")


def cannot(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["utils.artefact.tarball._write", "utils.verify.files.hash_file", "tensorflow"])
def test_what_this_machine_lacks_is_not_said_of_the_copy(download, capsys, monkeypatch, where):
    if where == "tensorflow":
        monkeypatch.setitem(sys.modules, "tensorflow", None)
    else:
        monkeypatch.setattr(where, cannot)
    lines = fails(capsys, download, "machine", "pip install" if where == "tensorflow" else "No space left")
    assert "says nothing about this copy" in lines[-1]


# --- wrong copies


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def climbing(download):
    with tarfile.open(alone(download), "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../../evil"))


def sums(text):
    return lambda download: (download.parent / SUMS).write_text(text)


def beside(change):
    return lambda download: (path := download.with_name(FILES[1])).write_text(change(path.read_text()))


def inside(change):
    return lambda download: repack(download, change)


# What is done to the download, the stage that fails, and what is said.
WRONG = {
    "another sum": (sums(f"{'ab' * 32}  {FILES[0]}\n"), "sum", "SHA256SUMS says abab"),
    "damaged sums": (sums("<html>"), "sum", "SHA256SUMS is damaged"),
    "two sums": (
        lambda download: sums(f"{'ab' * 32}  {FILES[0]}\n{hash_file(download)}  ./{FILES[0]}\n")(download),
        "sum",
        "with 2 different sums",
    ),
    "a flipped byte": (flip, "sum", "its SHA-256 is"),
    "a flipped byte, no sums": (lambda download: flip(alone(download)), "contents", "Nothing was unpacked"),
    "a bad member": (climbing, "contents", "'../../evil'"),
    "no manifest": (inside(lambda folder: (folder / UNLISTED[0]).unlink()), "contents", "not an artefact of this"),
    "a manifest of odd types": (
        inside(lambda folder: manifest_inside(folder, lambda manifest: manifest["parity"].update(compared=[[]]))),
        "contents",
        "parity.compared[0] is []",
    ),
    "another file inside": (inside(lambda folder: flip(folder / "saved_model.pb")), "files", "saved_model.pb is not"),
    "another manifest beside it": (
        beside(lambda text: json.dumps(json.loads(text) | {"parameters": 1})),
        "manifest",
        "differs from the one inside, in parameters",
    ),
    "another card inside": (
        lambda download: (
            (kept := download.with_name(FILES[1]).read_text()),
            repack(download, lambda folder: (folder / UNLISTED[1]).write_text("another")),
            download.with_name(FILES[1]).write_text(kept),
        ),
        "manifest",
        f"{FILES[1]} says",
    ),
    "an inner manifest beside it": (
        beside(lambda text: json.dumps(packed_manifest(json.loads(text)))),
        "manifest",
        "has no figures",
    ),
    "a damaged manifest beside it": (beside(lambda text: text[:-9]), "manifest", f"{FILES[1]}: {FILES[1]} is not JSON"),
}


@pytest.mark.parametrize("case", WRONG)
def test_nothing_is_run_before_the_files_are_known(download, capsys, nothing_is_run, case):
    change, stage, text = WRONG[case]
    change(download)
    fails(capsys, download, stage, text)
    assert not list(download.parent.rglob("evil"))


def test_another_artefact_in_its_place_is_not_run(download, capsys, nothing_is_run):
    other = download.rename(download.with_name("convmixer_768_32_classification.tar.gz"))
    fails(capsys, other, "name", f"inside is {NAME}")


FORGED = "x\n  files       ok\n  This copy gives the right numbers here\x1b[2K\x1b[1A\u202e"


def test_what_a_stranger_wrote_cannot_make_a_line_of_its_own(download, capsys, nothing_is_run):
    repack(
        alone(download),
        lambda folder: manifest_inside(folder, lambda manifest: manifest["files"].update({FORGED: "ab" * 32})),
    )
    status, (lines,) = said(capsys, download)
    assert status == 1
    assert r"x\n  files" in lines[-2]
    assert all(line.isprintable() for line in lines)
    assert "Do not use this copy" in lines[-1]
    assert str(PackagingError(f"a\n{FORGED}")).splitlines()[0] == "a"
    assert "\x1b" not in str(PackagingError(FORGED))


def other_numbers(folder):
    golden = read_golden((folder / GOLDEN).read_bytes(), "")
    outputs = golden.outputs.copy()
    outputs[0, 3] += 2e-5  # twice the gate
    (folder / GOLDEN).write_bytes(golden_bytes(replace(golden, outputs=outputs)))
    manifest_inside(folder, lambda manifest: manifest["files"].update({GOLDEN: hash_file(folder / GOLDEN)}))


def without_golden(folder):
    (folder / GOLDEN).unlink()
    manifest_inside(folder, lambda manifest: manifest["files"].pop(GOLDEN))


def without_tolerance(folder):
    manifest_inside(folder, lambda manifest: manifest["parity"]["tolerance"].clear())


def other_signature(folder):
    tensor = {"inputs": {"dtype": "float32", "shape": [None, 64, 64, 3]}}
    manifest_inside(folder, lambda manifest: manifest["signatures"]["serving_default"].update(inputs=tensor))


@pytest.mark.parametrize(
    ("change", "stage", "texts"),
    [
        (other_numbers, "numbers", ["relative L2 error", " > 1.0e-05"]),
        (without_golden, "numbers", ["carries no golden inputs"]),
        (without_tolerance, "numbers", ["the manifest names no tolerance for logits"]),
        (other_signature, "signatures", ["[None, 48, 48, 3]", "[None, 64, 64, 3]"]),
    ],
)
def test_published_files_that_compute_otherwise_are_not_called_right_nor_to_be_fetched_again(
    download, capsys, change, stage, texts
):
    repack(alone(download), change)
    lines = fails(capsys, download, stage, *texts)
    assert "not found right" in lines[-1]


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (lambda images: images, "serving_image, serving_image_bytes called"),
        (lambda images: images // 2, "logits differs between"),
        (lambda images: images[:1], "serving_image_bytes, logits: [1, 3]"),
        (lambda images: images * np.nan, "not finite"),
        (lambda images: images.no_such_method(), "cannot be called"),
    ],
    ids=["none", "other pixels", "other shape", "NaN", "exception"],
)
def test_image_signatures_are_called_and_compared(fault, text):
    import tensorflow as tf

    def serving_image(images):
        assert images.dtype == tf.uint8
        return means(images.numpy())

    def serving_image_bytes(image_bytes):
        return means(fault(np.stack([tf.io.decode_png(data, 3).numpy() for data in image_bytes])))

    def means(images):
        return {"logits": tf.constant(images.mean((1, 2)), tf.float32)}

    signatures = {"serving_image": serving_image, "serving_image_bytes": serving_image_bytes}
    described = {name: {"outputs": {"logits": {"dtype": "float32", "shape": [None, 3]}}} for name in signatures}
    check = numbers._check_image_signatures(tf, SimpleNamespace(signatures=signatures), described)
    assert text in check.text
    assert check.passed is ("called;" in check.text)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (lambda maps: maps, "maps computed: stem"),
        (lambda maps: maps[:, :, 1:], "map stem: [1, 2, 2, 5], expected [None, None, 3, 5]"),
        (lambda maps: maps[..., 0], "map stem: [1, 2, 3], expected"),
        (lambda maps: maps * np.nan, "not finite"),
        (lambda maps: maps.no_such_method(), "cannot be computed"),
    ],
    ids=["none", "other width", "other rank", "NaN", "exception"],
)
def test_maps_are_computed_and_have_the_shapes_that_the_manifest_says(fault, text):
    import tensorflow as tf

    described = {"stem": {"dtype": "float32", "shape": [None, None, 3, 5]}}  # of any height
    golden = SimpleNamespace(inputs=np.ones((2, 8, 12, 3), np.float32))
    signature = lambda inputs: {"stem": fault(tf.ones([len(inputs), 2, 3, 5]))}  # noqa: E731
    check = numbers._check_maps(tf, signature, described, golden)
    assert text in check.text
    assert check.passed is ("maps computed" in check.text)


def test_golden_numbers_are_computed_in_float32_on_any_device():
    import tensorflow as tf

    before = tf.config.experimental.tensor_float_32_execution_enabled()
    try:
        tf.config.experimental.enable_tensor_float_32_execution(True)
        numbers.import_tensorflow()
        assert not tf.config.experimental.tensor_float_32_execution_enabled()
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


@pytest.mark.slow
@given(st.text(st.sampled_from("0123456789abcdef *./\n\x1b\x85ax"), max_size=200) | st.binary(max_size=200))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_sums_of_any_bytes_pass_fail_or_say_nothing(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("sums", numbered=True)
    (folder / SUMS).write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "a").write_bytes(b"")
    with contextlib.suppress(PackagingError):
        assert check_sum(folder / "a").passed is not True


# --- .onnx files; those of Keras are in tests/keras_models


@pytest.fixture(scope="module")
def texts():
    """The metadata of a .onnx file of the tiny ConvMixer."""
    variant, proof = get_variant("convmixer_tiny"), proofs.proof("convmixer_tiny")
    fields = {"name": NAME, "head": "classification", "weights": "custom", "labels": None, "parameters": 21_000}
    fields |= {"source": {"url": None, "path": "tiny", "sha256": "ab" * 32}, "units": 10, "image_size": 48}
    golden = make_golden(proof.truth, 48, 48, 0, {})
    return record_as_texts(build_record(variant, variant.preprocessing, golden, tolerance=proof.tolerance(), **fields))


@pytest.fixture(scope="module")
def made(texts, tmp_path_factory):
    return onnx_tiny.written(
        tmp_path_factory.mktemp("onnx") / f"{NAME}.onnx", "convmixer_tiny", image_size=48, metadata=texts
    )


@pytest.fixture
def onnx(made, tmp_path):
    """A copy to damage, with the manifest beside it."""
    (tmp_path / FILES[1]).write_text(json.dumps({"onnx": {"sha256": hash_file(made)}}))
    return made.__class__(shutil.copy(made, tmp_path))


def test_onnx_right_copy_passes_every_check(onnx, capsys):
    status, (lines,) = said(capsys, onnx)
    assert status == 0
    right = [(stage, "ok") for stage in ("files", "contents", "name", "numbers", "numbers")]
    assert stages(lines) == [("sum", "-"), *right]
    assert "right numbers here: ONNX Runtime 1." in lines[-1]


def test_onnx_without_its_runtime_says_what_to_install(onnx, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    lines = fails(capsys, onnx, "machine", "pip install onnxruntime")
    assert "says nothing about this copy" in lines[-1]


def test_onnx_of_a_wrong_hash_is_not_loaded_and_a_renamed_one_is_named(onnx, monkeypatch, capsys):
    fails(capsys, shutil.copy(onnx, onnx.with_name("convmixer_768_32_fe.onnx")), "name")
    monkeypatch.setattr(numbers, "Session", lambda _: pytest.fail("it was loaded"))
    onnx.write_bytes(onnx.read_bytes() + b"\0")
    assert "fetch it again" in fails(capsys, onnx, "files")[-1]


def of_two_images(model):
    """A batch that is not free: the first dimension of the input, and what follows from it."""
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 2


@pytest.mark.parametrize("fault", ["other weights", "one batch size"])
def test_onnx_of_other_numbers_is_not_called_right(texts, tmp_path, capsys, fault):
    arrays = tiny.weights("convmixer_tiny")
    if fault == "other weights":
        arrays["blocks.1.1.weight"] *= 1.01
    edit = {"edit": of_two_images} if fault == "one batch size" else {}
    path = onnx_tiny.written(tmp_path / f"{NAME}.onnx", "convmixer_tiny", arrays=arrays, metadata=texts, **edit)
    assert "Try another version of ONNX Runtime" in fails(capsys, path, "numbers")[-1]


def test_a_copy_beside_which_nothing_lies_is_not_called_the_published_one(onnx, texts, capsys):
    onnx.with_suffix(".json").unlink()
    status, (lines,) = said(capsys, onnx)
    assert (status, "right numbers here" in lines[-1], "Nothing beside it says" in lines[-1]) == (0, True, True)
    arrays = tiny.weights("convmixer_tiny") | {"head.bias": np.full(10, np.nan, np.float32)}
    onnx_tiny.written(onnx, "convmixer_tiny", arrays=arrays, metadata=texts)
    lines = fails(capsys, onnx, "numbers")
    assert "Do not use this copy" in lines[-1]
    assert "files that were published" not in lines[-1]


def test_onnx_whose_weights_are_in_another_file_is_not_loaded(onnx, capsys, monkeypatch):
    import onnx as library

    monkeypatch.setattr(numbers, "Session", lambda _: pytest.fail("it was loaded"))
    model = library.load(onnx)
    library.save(model, onnx, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (onnx.parent / FILES[1]).write_text(json.dumps({"onnx": {"sha256": hash_file(onnx)}}))
    lines = fails(capsys, onnx, "contents", "in another file")
    assert "Do not use this copy" in lines[-1]


@pytest.mark.parametrize("change", [{"depth": 5}, {"dim": 48}, {"depth": 10**6}, "mixer_tiny"])
def test_record_that_lies_about_family_or_sizes_is_found_out(texts, tmp_path, capsys, change):
    model = json.loads(texts["model"])
    if isinstance(change, str):
        model |= {"family": "mixer", "architecture": asdict(get_variant(change).architecture)}
    else:
        model["architecture"] |= change
    metadata = texts | {"model": json.dumps(model)}
    path = onnx_tiny.written(tmp_path / f"{NAME}.onnx", "convmixer_tiny", metadata=metadata)
    status, (lines,) = said(capsys, path)
    assert (status, "FAIL" in lines[-2], "right numbers" in lines[-1]) == (1, True, False)


def test_the_folder_of_a_model_of_other_sizes_than_it_says_is_not_called_right(download, capsys):
    deeper = lambda folder: manifest_inside(folder, lambda m: m["model"]["architecture"].update(depth=5))  # noqa: E731
    repack(alone(download), deeper)
    fails(capsys, download, "numbers", "no ConvMixer of the sizes")


def test_whatever_is_no_onnx_file_is_an_error_of_ours(made, tmp_path):
    path, whole = tmp_path / "a.onnx", made.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole[: random.integers(1, len(whole))])
        for position in random.integers(0, min(len(data), 400), 3):
            data[position] = random.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(PackagingError):
            onnx_tensors.sizes(path)


@pytest.mark.parametrize("change", [{"units": "11"}, {"image_size": "64"}])
def test_onnx_whose_record_is_not_of_what_it_carries_is_not_called_right(texts, tmp_path, capsys, change):
    path = onnx_tiny.written(tmp_path / f"{NAME}.onnx", "convmixer_tiny", metadata=texts | change)
    assert "fetch it again" in fails(capsys, path, "contents", "its golden data are 10 outputs")[-1]


def test_onnx_of_a_manifest_that_names_no_sum_is_not_called_right(onnx, capsys):
    (onnx.parent / FILES[1]).write_text(json.dumps({"onnx": "ab" * 32}))
    fails(capsys, onnx, "contents", "names no SHA-256")


def test_a_reader_that_leaves_is_no_traceback(tmp_path):
    command = [sys.executable, "-m", "utils.verify", str(tmp_path / "nothing.tar.gz")]
    child = subprocess.Popen(command, cwd=verify_app.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()
    assert child.stderr.read() == b""
    assert child.wait() == 1


@pytest.mark.parametrize("kind", ["cut", "a page", "nobody's here"])
def test_onnx_that_is_none_of_ours_is_to_be_fetched_again(onnx, capsys, kind):
    onnx.with_suffix(".json").unlink()
    if kind == "nobody's here":
        onnx_tiny.written(onnx, "convmixer_tiny")
    else:
        onnx.write_bytes(onnx.read_bytes()[:5000] if kind == "cut" else b"<html>")
    assert "fetch it again" in fails(capsys, onnx, "contents")[-1]


def test_published_onnx_that_an_old_runtime_does_not_read_is_not_called_damaged(onnx, monkeypatch, capsys):
    def refuses(path):
        raise onnx_session.Unloadable(f"{path}: ONNX Runtime 1.2 cannot load it: opset 17 is not known")

    monkeypatch.setattr(numbers, "Session", refuses)
    assert "Try another version of ONNX Runtime" in fails(capsys, onnx, "load")[-1]


# --- as a downloader has it

BLOCKED = """
import importlib.abc, runpy, sys
NAMES = sys.argv[1].split()
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NAMES:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
OTHERS = (
    "torch jax jaxlib flax onnx onnx_tf tf_keras tensorflow_hub PIL matplotlib pooch tqdm papermill nbclient nbformat "
    "ipykernel IPython psutil yaml pytest scipy pandas"
)


@pytest.mark.parametrize(("fixture", "blocked"), [("download", OTHERS), ("onnx", f"{OTHERS} tensorflow keras")])
def test_the_single_file_needs_neither_the_repository_nor_anything_but_the_runtime(
    request, tmp_path_factory, fixture, blocked
):
    app = verify_app.build(tmp_path_factory.mktemp("app") / "verify.pyz")
    command = [sys.executable, "-c", BLOCKED, blocked, str(app), str(request.getfixturevalue(fixture))]
    environment = os.environ | {"PYTHONPATH": ""}
    done = subprocess.run(command, cwd=app.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "right numbers" in done.stdout
    assert done.stderr == ""  # frameworks' chatter in the middle of its table


def test_the_single_file_holds_what_it_imports_the_same_bytes_each_time_and_nothing_else(tmp_path):
    first, second = (verify_app.build(tmp_path / name) for name in ("a.pyz", "b.pyz"))
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pyz", "b.pyz"]
    with zipfile.ZipFile(first) as archive:
        names = set(archive.namelist())
    assert {"__main__.py", "utils/__init__.py", "utils/verify/command.py", "utils/artefact/__init__.py"} <= names
    assert not {"utils/checkpoints/download.py", "utils/artefact/card.py", "utils/artefact/staging.py"} & names
