"""The same checkpoint gives the same files, byte for byte: in another process, with another order of hashes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from utils.files import hash_file

ROOT = Path(__file__).resolve().parent.parent
# All that a conversion does but the comparison: checkpoint -> function -> SavedModel -> tarball.
CONVERT = """
import sys
from pathlib import Path
import keras_tiny
import onnx_tiny
import tiny
from utils.export import saved_model
from utils.export.signatures import image_signatures
from utils.artefact.tarball import write_tarball
from utils.keras_models import saving
from utils.families.variants import get_variant

folder, variant = Path(sys.argv[1]), get_variant("mixer_tiny")
made = {
    "convmixer": tiny.exported("convmixer_tiny", "classification", 48),
    "xla": tiny.mixer()[0],
    "plain": tiny.mixer(operations="plain")[0],
    "convmixer features": tiny.exported("convmixer_tiny", "fe", 48),
    "xla features": tiny.mixer("fe")[0],
}
for name, exported in made.items():
    saved_model.save_model(exported, folder / name, image_signatures(variant.preprocessing))
    write_tarball(folder / name, folder / f"{name}.tar.gz")
onnx_tiny.written(folder / "a.onnx", "convmixer_tiny")
saving.save(keras_tiny.built("mixer_tiny"), folder / "a.keras", {})
"""


def hashes(folder):
    return {
        path.name: hash_file(path) for path in sorted(folder.iterdir()) if path.suffix in (".gz", ".keras", ".onnx")
    }


def run(command, seed):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONHASHSEED": str(seed)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)


def test_the_order_of_a_graph_s_functions_and_the_random_number_leave_no_trace(saved, tmp_path):
    """TensorFlow takes functions out of a hash table, in another order now and then; here that is planted."""
    from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    from utils.export.saved_model import make_reproducible

    files = ("saved_model.pb", "fingerprint.pb")
    made = saved("convmixer_tiny", "classification", 48)
    expected = [hash_file(Path(made) / file) for file in files]
    other = shutil.copytree(made, tmp_path / "other")
    graph = SavedModel.FromString((other / files[0]).read_bytes())
    functions = graph.meta_graphs[0].graph_def.library.function
    assert len(functions) > 2
    functions.sort(key=lambda function: function.signature.name, reverse=True)
    (other / files[0]).write_bytes(graph.SerializeToString(deterministic=True))
    fingerprint = FingerprintDef.FromString((other / files[1]).read_bytes())
    fingerprint.uuid, fingerprint.saved_model_checksum = "1", 1
    (other / files[1]).write_bytes(fingerprint.SerializeToString())
    assert not {hash_file(other / file) for file in files} & set(expected)
    make_reproducible(other)
    assert [hash_file(other / file) for file in files] == expected


@pytest.mark.slow
def test_saving_in_two_processes_gives_the_same_bytes(tmp_path):
    found = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        run([sys.executable, "-c", CONVERT, str(folder)], seed)
        found.append(hashes(folder))
    saved = ["convmixer features", "convmixer", "plain", "xla features", "xla"]
    assert list(found[0]) == ["a.keras", "a.onnx", *(f"{name}.tar.gz" for name in saved)]
    assert found[0] == found[1]


@pytest.mark.slow
def test_converting_twice_through_the_notebooks_gives_the_same_tarballs(tmp_path):
    """By the batch, a kernel for each artefact: after the classifier, whose run of the source it shares, and alone."""
    options, found = ["--variants", "convmixer_tiny", "--checkpoint", "synthetic"], []
    for seed, heads in enumerate(("all", "fe")):
        command = [sys.executable, "-m", "utils.batch", *options, "--heads", heads, "--jobs", "2"]
        run([*command, "--output-dir", str(tmp_path / heads)], seed)
        found.append({name: sha256 for name, sha256 in hashes(tmp_path / heads).items() if "_fe_" in name})
    assert len(found[0]) == 1
    assert found[0] == found[1]
