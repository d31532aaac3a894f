"""The ONNX file: PyTorch's graph and weights, what it computes by ONNX Runtime, and faults that the gate must see."""

import copy
import sys

import numpy as np
import onnx
import onnx_tiny
import onnxruntime
import proofs
import pytest
import tiny
from onnx import helper, numpy_helper

from utils.errors import ConversionError, PackagingError
from utils.export import onnx_file, onnx_session, torch_to_onnx
from utils.families.convmixer import source as convmixer
from utils.parity.comparison import compare_outputs
from utils.parity.judge import RATIO
from utils.parity.report import Report

GELU, RELU = tiny.NAMES


def sides(value):
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


# --- what is in it


@pytest.mark.parametrize("image_size", [0, 48])
@pytest.mark.parametrize(("head", "output"), tiny.OUTPUTS.items())
def test_file_takes_what_pytorch_takes_and_holds_its_state_dict_bit_for_bit(tmp_path, head, output, image_size):
    model = onnx.load(onnx_tiny.written(tmp_path / "a.onnx", GELU, head, image_size))
    onnx.checker.check_model(model, full_check=True)
    ((inputs,), (result,)) = model.graph.input, model.graph.output
    height, width = (image_size, image_size) if image_size else ("height", "width")
    assert (inputs.name, sides(inputs)) == ("inputs", ["batch", 3, height, width])
    assert (result.name, sides(result)) == (output, ["batch", tiny.expected(GELU)[output].shape[1]])
    state = tiny.source(GELU, head).state_dict()
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert sorted(held) == sorted(key for key in state if not key.endswith("num_batches_tracked"))
    assert all(array.tobytes() == state[key].numpy().tobytes() for key, array in held.items())


def test_operators_are_the_model_s_own_without_a_transpose_and_of_an_opset_that_old_runtimes_read():
    model = onnx_tiny.graph(RELU)
    unit = ["Conv", "Relu", "BatchNormalization"]
    found = [node.op_type for node in model.graph.node]
    depth = tiny.architecture(RELU).depth
    pooling = ["ReduceMean", "ReduceMean", "Flatten"]
    assert found == unit + depth * [*unit, "Add", *unit] + [*pooling, "Gemm"]
    assert not [a.name for node in model.graph.node for a in node.attribute if a.name == "auto_pad"]
    found = {node.op_type for node in onnx_tiny.graph(GELU).graph.node}
    assert found == {"Conv", "BatchNormalization", "Add", *pooling, "Gemm"} | {
        *("Constant", "Div", "Erf", "Mul")  # GELU by its formula
    }
    assert [(each.domain, each.version) for each in model.opset_import] == [("", torch_to_onnx.FILE_OPSET)]
    assert torch_to_onnx.FILE_OPSET < 18


def test_metadata_are_read_again_and_nothing_tells_of_this_machine(tmp_path):
    told = {"name": "convmixer_tiny_fe", "weights": "custom", "labels": '[["n1", "œuf"]]'}
    path = onnx_tiny.written(tmp_path / "a.onnx", GELU, metadata=told)
    assert onnx_session.Session(path).metadata == told
    model = onnx.load(path)
    assert (model.graph.name, model.producer_name) == ("convmixer_tiny_fe", "pytorch")
    assert not any(node.doc_string for node in model.graph.node)
    assert str(tmp_path).encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (None, "stem.0.bias is missing"),
        (np.zeros(3, np.float32), r"stem.0.bias is float32 \[3\]; .* float32 \[32\]"),
        (np.zeros(32), r"stem.0.bias is float64 \[32\]; .* float32 \[32\]"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_is_written(tmp_path, array, message):
    arrays = {k: v for k, v in (tiny.weights(GELU) | {"stem.0.bias": array}).items() if v is not None}
    with pytest.raises(ConversionError, match=message):
        onnx_tiny.written(tmp_path / "a.onnx", GELU, arrays=arrays)
    assert list(tmp_path.iterdir()) == []


def test_graph_that_the_checker_refuses_is_not_written(tmp_path):
    def spoil(model):
        model.graph.node[3].input[0] = "nowhere"

    with pytest.raises(ConversionError, match=r"a\.onnx is no sound ONNX model: "):
        onnx_tiny.written(tmp_path / "a.onnx", GELU, edit=spoil)
    assert list(tmp_path.iterdir()) == []


# --- what it computes


@pytest.mark.parametrize(("name", "head"), [(GELU, "classification"), (RELU, "classification"), (GELU, "fe")])
def test_onnx_runtime_computes_what_upstream_computed_in_any_batch(tmp_path, name, head):
    """By anybody's lines, in PyTorch's order of axes, and by this project's."""
    path, golden = onnx_tiny.written(tmp_path / "a.onnx", name, head), tiny.expected(name)
    expected = golden[tiny.OUTPUTS[head]]
    (found,) = onnxruntime.InferenceSession(path).run(None, {"inputs": golden["inputs"].transpose(0, 3, 1, 2)})
    assert tiny.relative_error(found, expected) <= 1e-5
    assert tiny.relative_error(onnx_session.Session(path)(golden["inputs"][1:2]), expected[1:2]) <= 1e-5


def test_images_of_any_height_and_width_where_none_is_fixed(tmp_path):
    inputs = np.random.default_rng(3).standard_normal((2, 40, 64, 3), dtype=np.float32)
    found = onnx_session.Session(onnx_tiny.written(tmp_path / "a.onnx", GELU))(inputs)
    assert tiny.relative_error(found, convmixer.as_nhwc(tiny.source(GELU))(inputs)) <= 1e-5


def test_features_of_many_patches_err_as_little_as_pytorch_s(tmp_path):
    """ONNX Runtime's GlobalAveragePool, which is PyTorch's export, adds each term to all before it."""
    inputs = {"noise": np.random.default_rng(0).standard_normal((1, 512, 512, 3), dtype=np.float32)}
    source = tiny.source(GELU, "fe")
    double = convmixer.as_nhwc(copy.deepcopy(source).double())
    run = onnx_session.Session(onnx_tiny.written(tmp_path / "a.onnx", GELU, "fe"))
    own = convmixer.as_nhwc(source)
    rows = compare_outputs(lambda x: double(x.astype(np.float64)), run, inputs, "features", source=own)
    assert rows[0].ratio < RATIO / 3


# --- files that are none, and a runtime that is not there


@pytest.mark.parametrize("damage", [lambda data: data[:5000], lambda data: b"<html>not found</html>", lambda _: b""])
def test_file_that_is_none_is_named(tmp_path, damage):
    path = onnx_tiny.written(tmp_path / "a.onnx", GELU)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(PackagingError, match=r"a\.onnx: it is no sound ONNX file"):
        onnx_file.Candidate(path)
    with pytest.raises(onnx_session.Unloadable, match=r"a\.onnx: ONNX Runtime .* cannot load it"):
        onnx_session.Session(path)


def test_missing_onnx_runtime_is_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PackagingError, match="pip install onnxruntime"):
        onnx_session.Session(b"")


# --- the gate


def compared(path, name, head="classification"):
    return proofs.proof(name, head).compare(onnx_file.Candidate(path), training=False)


@pytest.mark.parametrize(("name", "head"), [(RELU, "classification"), (GELU, "fe")])
def test_honest_file_passes_and_is_as_before_once_it_was_compared(tmp_path, name, head):
    path = onnx_tiny.written(tmp_path / "a.onnx", name, head, image_size=48)
    candidate, inputs = onnx_file.Candidate(path), tiny.expected(name)["inputs"]
    before = candidate(inputs)
    rows = proofs.proof(name, head).compare(candidate, training=False)
    Report(rows).require()
    assert {"variables", tiny.OUTPUTS[head]} == {row.output for row in rows}
    assert {row.batch for row in rows} == {0, 1, 2}
    assert "noise, probed" in {row.input for row in rows}
    np.testing.assert_array_equal(candidate(inputs), before)


def nodes(model, kind):
    return [node for node in model.graph.node if node.op_type == kind]


def epsilon(model):
    for node in nodes(model, "BatchNormalization"):
        node.attribute.remove(next(each for each in node.attribute if each.name == "epsilon"))
        node.attribute.append(helper.make_attribute("epsilon", 2e-5))


def turned(model):
    """Images on their side: what a transposition of the wrong axes does, which square images hide."""
    model.graph.node[0].input[0] = "turned"
    model.graph.node.insert(0, helper.make_node("Transpose", ["inputs"], ["turned"], perm=(0, 1, 3, 2)))


def tanh_for_erf(model):
    for node in nodes(model, "Erf"):
        node.op_type = "Tanh"


def shifted(model):
    """The kernel a pixel further down."""
    for node in nodes(model, "Conv"):
        pads = next((each for each in node.attribute if each.name == "pads" and any(each.ints)), None)
        if pads:
            top, left, bottom, right = pads.ints
            pads.ints[:] = [top + 1, left, bottom - 1, right]


@pytest.mark.parametrize("fault", [epsilon, turned, tanh_for_erf, shifted])
def test_fault_in_the_graph_fails_the_gate(tmp_path, fault):
    rows = compared(onnx_tiny.written(tmp_path / "a.onnx", GELU, edit=fault), GELU)
    assert proofs.failed(rows) == {"logits"}
    assert max(row.ratio for row in rows if row.ratio is not None) > 2 * RATIO


@pytest.mark.parametrize(
    ("factor", "failed"), [(1.01, {"variables", "logits"}), (np.nextafter(np.float32(1), np.float32(2)), {"variables"})]
)
def test_a_changed_weight_shows_by_itself_however_little_and_in_the_outputs(tmp_path, factor, failed):
    key, arrays = "blocks.1.1.weight", tiny.weights(GELU)
    flat = arrays[key].reshape(-1)
    flat[np.argmax(np.abs(flat))] *= np.float32(factor)
    rows = compared(onnx_tiny.written(tmp_path / "a.onnx", GELU, arrays=arrays), GELU)
    assert [row.variable for row in rows if row.output == "variables" and not row.passed] == [key]
    assert proofs.failed(rows) == failed
