"""Files beside a SavedModel, as a notebook writes them: proved and told of, or refused; none where none is wanted."""

import json

import onnx_tiny
import proofs
import pytest
import tiny

from utils.artefact import extra_formats as extra
from utils.artefact.contents import preprocessing_of
from utils.artefact.record import check_record, record_from_texts
from utils.artefact.staging import Staging
from utils.errors import PackagingError, ParityError
from utils.export.onnx_session import Session
from utils.families.variants import BESIDE, get_variant
from utils.files import hash_file
from utils.parity.golden import make_golden

RELU = tiny.NAMES[1]
NAME = "convmixer_tiny_relu_classification_synthetic"


@pytest.fixture
def stage(tmp_path):
    with Staging(tmp_path, NAME) as staging:
        yield staging
        staging.discard()


def written(stage):
    variant, proof = get_variant(RELU), proofs.proof(RELU)
    fields = {"name": NAME, "head": "classification", "weights": "synthetic", "units": 10, "image_size": 48}
    fields |= {"source": {"url": None, "path": "tiny", "sha256": "ab" * 32}, "parameters": 21_000}
    fields |= {"preprocessing": variant.preprocessing, "labels": [(f"n{i}", f"class {i}") for i in range(10)]}
    made = extra.ExtraFormats(("saved_model", "onnx"), stage, proof, variant)
    made.write(**fields, variant=variant, golden=make_golden(proof.truth, 48, 48, 0))
    return made


def test_every_format_of_the_table_can_be_made():
    assert list(extra.KINDS) == list(BESIDE)


def test_onnx_file_is_written_and_proved_with_a_record_and_the_same_bytes_each_time(stage, tmp_path):
    made, proof, path = written(stage), proofs.proof(RELU), stage.beside["onnx"]
    proof.found = {"photographs": "what the SavedModel gave"}
    made.prove({})
    made.require()
    assert proof.found == {"photographs": "what the SavedModel gave"}
    ((title, report),) = made.reports
    assert title == ".onnx file, onnxruntime:"
    assert {row.output for row in report.rows} == {"variables", "logits"}
    found = made.facts["onnx"]
    assert (list(made.facts), found["sha256"], found["opset"]) == (["onnx"], hash_file(path), 17)
    assert found["parity"]["onnxruntime"]["passed"] is True
    assert "rows" not in found["parity"]["onnxruntime"]
    json.dumps(found)

    metadata = Session(path).metadata
    assert (metadata["weights"], metadata["licence"]) == ("synthetic", "Apache-2.0")  # the weights were made here
    record = record_from_texts(metadata, "a.onnx")
    check_record(record, "a.onnx")
    assert (record["name"], record["model"]["licence"], record["image_size"]) == (NAME, "MIT", 48)
    assert record["labels"][3] == ["n3", "class 3"]
    assert preprocessing_of(record) == get_variant(RELU).preprocessing
    assert "training" not in record
    with pytest.raises(PackagingError, match=r"a\.onnx: units in its record is not JSON"):
        record_from_texts(metadata | {"units": "ten"}, "a.onnx")

    with Staging(tmp_path / "again", NAME) as other:
        written(other)
        assert other.beside["onnx"].read_bytes() == path.read_bytes()
        other.discard()


def test_another_model_than_the_source_is_refused_by_name(stage):
    made = written(stage)
    arrays = tiny.weights(RELU)
    arrays["blocks.1.1.weight"][0, 0] *= 1.01
    onnx_tiny.written(stage.beside["onnx"], RELU, arrays=arrays)
    made.prove({})
    with pytest.raises(ParityError, match=r"the \.onnx file on onnxruntime: parity failed"):
        made.require()


def test_nothing_that_is_not_asked_for_costs_anything(stage, monkeypatch):
    monkeypatch.setattr(proofs.Proof, "tolerance", lambda _: pytest.fail("the source was waited for"))
    made = extra.ExtraFormats(("saved_model",), stage, proofs.proof(RELU), get_variant(RELU))
    made.write()
    made.prove({})
    made.require()
    assert (made.facts, list(made.reports)) == ({}, [])
    assert not any(path.exists() for path in stage.beside.values())
