"""What lets onnx-tf import: in processes of its own, because an import happens once."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


PROBE = """
import gc, importlib.util, json, sys
import numpy as np
from utils.errors import ConversionError

absent = [p for p in ("tensorflow_addons", "tensorflow_probability") if importlib.util.find_spec(p) is None]
from utils.export.onnx_tf_compat import import_onnx_tf
backend = import_onnx_tf()
left = [name for name in sys.modules if name.split(".")[0] in absent]

def handlers(opset):
    import onnx
    return backend.TensorflowBackend._get_handlers([onnx.helper.make_opsetid("", opset)])[""]

gc.collect()
gc.collect()
found = handlers(20)
ours = {op: found[op].__module__ for op in ("Gelu", "Conv", "Flatten", "BatchNormalization")}
versions = [found[op].SINCE_VERSION for op in (*ours, "ReduceMean", "Constant")]

def message(call):
    try:
        return f"gave {call()}"
    except ConversionError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

import onnx
from onnx_tf.handlers.backend import bernoulli
node = backend.OnnxNode(onnx.helper.make_node("Hardmax", ["x"], ["y"], axis=-1))
stand_ins = [
    message(lambda: handlers(13)["Hardmax"].handle(node, tensor_dict={"x": np.ones((2, 3), "f")}, strict=True)),
    message(lambda: bernoulli.tfd.Bernoulli(probs=0.5)),
]

from onnx import TensorProto as T
mapping = onnx.mapping
tables = {
    name: [
        str(np.dtype(mapping.TENSOR_TYPE_TO_NP_TYPE[t])),
        mapping.TENSOR_TYPE_TO_STORAGE_TENSOR_TYPE[t],
        mapping.STORAGE_TENSOR_TYPE_TO_FIELD[mapping.TENSOR_TYPE_TO_STORAGE_TENSOR_TYPE[t]],
    ]
    for name, t in (("float32", T.FLOAT), ("int64", T.INT64), ("string", T.STRING), ("bfloat16", T.BFLOAT16))
}
back = [int(mapping.NP_TYPE_TO_TENSOR_TYPE[np.dtype(n)]) for n in ("float32", "int64", "bool", "float64")]
print(json.dumps({
    "absent": absent, "left": left, "ours": ours, "versions": versions, "stand_ins": stand_ins,
    "tables": tables, "back": back, "same": mapping is onnx.helper.mapping is sys.modules["onnx.mapping"],
}))
"""


@pytest.fixture(scope="module")
def probe():
    return run(PROBE)


def test_onnx_tf_imports_without_its_outdated_dependencies_and_leaves_no_placeholder(probe):
    assert probe["absent"] == ["tensorflow_addons", "tensorflow_probability"]
    assert probe["left"] == []
    for message, package in zip(probe["stand_ins"], probe["absent"], strict=True):
        assert f"needs {package}" in message


def test_additional_handlers_survive_the_garbage_collector_and_are_of_the_exported_graph_s_opset(probe):
    assert set(probe["ours"].values()) == {"utils.export.onnx_tf_compat"}
    assert probe["versions"] == [20, 11, 13, 15, 18, 19]


def test_dtype_tables_say_what_onnx_s_own_said(probe):
    # Numbers of onnx.proto: 1 FLOAT, 7 INT64, 8 STRING, 11 DOUBLE, 9 BOOL; fields as TensorProto names them.
    assert probe["tables"] | {"bfloat16": probe["tables"]["bfloat16"][2]} == {
        "float32": ["float32", 1, "float_data"],
        "int64": ["int64", 7, "int64_data"],
        "string": ["object", 8, "string_data"],
        "bfloat16": "int32_data",
    }
    assert probe["back"] == [1, 7, 9, 11]
    assert probe["same"]


def test_absent_onnx_tf_is_a_conversion_error_with_the_command_that_installs_it():
    message = run("""
import importlib.util, json, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "onnx_tf" else find_spec(name, package)
from utils.errors import ConversionError
from utils.export.onnx_tf_compat import import_onnx_tf
try:
    import_onnx_tf()
except ConversionError as error:
    print(json.dumps({"message": str(error), "tensorflow": "tensorflow" in sys.modules}))
""")
    assert "pip install --no-deps -r requirements-onnx-tf.txt" in message["message"]
    assert not message["tensorflow"]  # said before the long import, not after it
    assert (ROOT / "requirements-onnx-tf.txt").is_file()


# --- the handlers' arithmetic, in this process


def handle(op_type, inputs, opset=20, **attributes):
    import onnx
    import tensorflow as tf

    from utils.export.onnx_tf_compat import TRAINING, import_onnx_tf

    backend = import_onnx_tf()
    handlers = backend.TensorflowBackend._get_handlers([onnx.helper.make_opsetid("", opset)])[""]
    node = backend.OnnxNode(onnx.helper.make_node(op_type, list(inputs), ["y"], **attributes))
    tensors = {name: tf.constant(array) for name, array in inputs.items()} | {TRAINING: False}
    return handlers[op_type].handle(node, tensor_dict=tensors, strict=True)[0].numpy()


@pytest.mark.parametrize("attributes", [{}, {"approximate": "none"}, {"approximate": "tanh"}])
def test_gelu_is_exact_unless_the_graph_asks_for_the_approximation(attributes):
    torch = pytest.importorskip("torch")
    x = np.linspace(-6, 6, 1001, dtype=np.float32)
    expected = torch.nn.functional.gelu(torch.tensor(x, dtype=torch.float64), **attributes).numpy()
    np.testing.assert_allclose(handle("Gelu", {"x": x}, **attributes), expected, atol=1e-6)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_mean_is_over_the_axes_that_come_as_an_input(keepdims):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    found = handle("ReduceMean", {"x": x, "axes": np.array([1, 2])}, keepdims=keepdims)
    np.testing.assert_allclose(found, x.mean((1, 2), keepdims=bool(keepdims)), atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_convolution_adds_its_bias_by_channel_or_none(bias):
    torch = pytest.importorskip("torch")
    x, kernel, offset = normal((2, 3, 7, 9), (4, 3, 2, 3), (4,))
    inputs = {"x": x, "kernel": kernel} | ({"bias": offset} if bias else {})
    expected = torch.nn.functional.conv2d(*map(torch.tensor, (x, kernel)), torch.tensor(offset) if bias else None)
    found = handle("Conv", inputs, kernel_shape=[2, 3], strides=[1, 1])
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("image", "attributes"),
    [
        ((7, 9), {}),  # a row is left over
        ((8, 11), {}),
        ((8, 9), {"pads": [1, 0, 1, 0]}),
        ((8, 9), {"group": 3, "strides": [2, 2]}),  # TensorFlow's own depthwise kernel asks for equal strides
        ((7, 8), {"auto_pad": "SAME_UPPER"}),
    ],
)
def test_convolution_of_windows_side_by_side(image, attributes):
    """A matrix product, unless something else is asked for as well."""
    runtime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    x, kernel = normal((2, 3, *image), (6, 3 // attributes.get("group", 1), 2, 3))
    attributes = {"kernel_shape": [2, 3], "strides": [2, 3]} | attributes
    node = onnx.helper.make_node("Conv", ["x", "kernel"], ["y"], **attributes)
    of_floats = [onnx.helper.make_tensor_value_info(name, 1, None) for name in ("x", "kernel", "y")]
    graph = onnx.helper.make_graph([node], "g", of_floats[:2], of_floats[2:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    inputs = {"x": x, "kernel": kernel}
    (expected,) = runtime.InferenceSession(model.SerializeToString()).run(["y"], inputs)
    np.testing.assert_allclose(handle("Conv", inputs, **attributes), expected, atol=1e-5)


def normal(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]
