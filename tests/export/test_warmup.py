"""Warm-up requests: read by TensorFlow Serving's own message definitions, and answered by the model's signatures."""

import pytest
import tensorflow as tf
import tiny

from utils.export import saved_model
from utils.export.image_signatures import image_signatures
from utils.export.warmup import WARMUP, write_warmup
from utils.families.variants import get_variant


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    preprocessing = get_variant("convmixer_tiny").preprocessing
    folder = tmp_path_factory.mktemp("warmup") / "tiny" / "1"  # <name>/<version>/, as Serving wants it
    folder.parent.mkdir()
    saved_model.save_model(
        tiny.exported("convmixer_tiny", "classification", 48), folder, image_signatures(preprocessing)
    )
    write_warmup(folder, preprocessing.crop)
    return folder


def test_each_signature_has_a_request_that_it_answers(folder):
    prediction_log = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    assert folder / "assets.extra" / "tf_serving_warmup_requests" == folder / WARMUP
    model, seen = saved_model.load_model(folder), []
    for record in tf.data.TFRecordDataset(str(folder / WARMUP)):
        log = prediction_log.PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        signature = model.signatures[request.model_spec.signature_name]
        inputs = {
            name: tf.io.parse_tensor(tensor.SerializeToString(), tf.as_dtype(tensor.dtype))
            for name, tensor in request.inputs.items()
        }
        assert signature(**inputs)["logits"].shape == (1, 10)
        seen.append(request.model_spec.signature_name)
    assert seen == ["serving_default", "serving_image", "serving_image_bytes"]
