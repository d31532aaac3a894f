"""The ONNX file: PyTorch's graph and weights, what it computes by ONNX Runtime, and faults that the gate must see."""

import copy
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnx_tiny
import onnxruntime
import proofs
import pytest
import tiny
from onnx import helper, numpy_helper
from torch import nn

from utils.errors import ConversionError, PackagingError
from utils.export import onnx_file, onnx_session, torch_to_onnx
from utils.families.convmixer import source as convmixer
from utils.parity.comparison import compare_outputs
from utils.parity.judge import RATIO
from utils.parity.report import Report

GELU, RELU = tiny.NAMES
every_model = pytest.mark.parametrize("name", tiny.NAMES)


def sides(value):
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


# --- what is in it


@every_model
@pytest.mark.parametrize(("head", "output"), tiny.OUTPUTS.items())
def test_file_takes_what_pytorch_takes_and_holds_its_state_dict_bit_for_bit(tmp_path, name, head, output):
    path = onnx_tiny.written(tmp_path / "a.onnx", name, head)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    ((inputs,), (result,)) = model.graph.input, model.graph.output
    assert (inputs.name, sides(inputs)) == ("inputs", ["batch", 3, "height", "width"])
    assert (result.name, sides(result)) == (output, ["batch", tiny.expected(name)[output].shape[1]])
    state = tiny.source(name, head).state_dict()
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


def test_image_size_fixes_height_and_width_and_nothing_else(tmp_path):
    model = onnx.load(onnx_tiny.written(tmp_path / "a.onnx", GELU, image_size=48))
    assert sides(model.graph.input[0]) == ["batch", 3, 48, 48]


def test_metadata_are_read_again_and_nothing_tells_of_this_machine(tmp_path):
    told = {"name": "convmixer_tiny_fe", "weights": "custom", "labels": '[["n1", "œuf"]]'}
    path = onnx_tiny.written(tmp_path / "a.onnx", GELU, metadata=told)
    assert onnx_session.Session(path).metadata == told
    model = onnx.load(path)
    assert (model.graph.name, model.producer_name) == ("convmixer_tiny_fe", "pytorch")
    assert not any(node.doc_string for node in model.graph.node)
    assert str(tmp_path).encode() not in path.read_bytes()


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(tmp_path):
    code = f"import onnx_tiny; from pathlib import Path; onnx_tiny.written(Path('b.onnx'), {GELU!r})"
    paths = ":".join(sys.path)
    environment = {"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": paths, "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    path = onnx_tiny.written(tmp_path / "a.onnx", GELU)
    assert path.read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize(
    ("key", "array", "message"),
    [
        ("stem.0.bias", None, "stem.0.bias is nothing; expected float32"),
        ("stem.0.bias", np.zeros(3, np.float32), r"stem.0.bias is float32 \[3\]; expected float32 \[32\]"),
        ("stem.0.bias", np.zeros(32), r"stem.0.bias is float64 \[32\]; expected float32 \[32\]"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_is_written(tmp_path, key, array, message):
    arrays = {k: v for k, v in (tiny.weights(GELU) | {key: array}).items() if v is not None}
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


@every_model
@pytest.mark.parametrize(("head", "output"), tiny.OUTPUTS.items())
def test_onnx_runtime_computes_what_upstream_computed_in_any_batch(tmp_path, name, head, output):
    run, golden = onnx_session.Session(onnx_tiny.written(tmp_path / "a.onnx", name, head)), tiny.expected(name)
    assert tiny.relative_error(run(golden["inputs"]), golden[output]) <= 1e-5
    assert tiny.relative_error(run(golden["inputs"][1:2]), golden[output][1:2]) <= 1e-5


def test_anybody_s_lines_give_the_same_with_pytorch_s_order_of_axes(tmp_path):
    path, golden = onnx_tiny.written(tmp_path / "a.onnx", RELU), tiny.expected(RELU)
    session = onnxruntime.InferenceSession(path)
    (logits,) = session.run(None, {"inputs": golden["inputs"].transpose(0, 3, 1, 2)})
    assert tiny.relative_error(logits, golden["logits"]) <= 1e-5


def test_images_of_any_height_and_width_where_none_is_fixed(tmp_path):
    inputs = np.random.default_rng(3).standard_normal((2, 40, 64, 3), dtype=np.float32)
    found = onnx_session.Session(onnx_tiny.written(tmp_path / "a.onnx", GELU))(inputs)
    assert tiny.relative_error(found, convmixer.as_nhwc(tiny.source(GELU))(inputs)) <= 1e-5


@every_model
def test_features_of_many_patches_err_as_little_as_pytorch_s(tmp_path, name):
    """ONNX Runtime's GlobalAveragePool, which is PyTorch's export, adds each term to all before it."""
    inputs = {"noise": np.random.default_rng(0).standard_normal((1, 512, 512, 3), dtype=np.float32)}
    source = tiny.source(name, "fe")
    double = convmixer.as_nhwc(copy.deepcopy(source).double())
    run = onnx_session.Session(onnx_tiny.written(tmp_path / "a.onnx", name, "fe"))
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


@pytest.mark.parametrize(("name", "head"), [(GELU, "classification"), (RELU, "classification"), (GELU, "fe")])
def test_honest_file_passes_and_is_as_before_once_it_was_compared(tmp_path, name, head):
    path = onnx_tiny.written(tmp_path / "a.onnx", name, head, image_size=48)
    candidate, inputs = onnx_file.Candidate(path), tiny.expected(name)["inputs"]
    before = candidate(inputs)
    rows = proofs.proof(name, head).compare(candidate, training=False)
    Report(rows).require()
    assert {"variables", tiny.OUTPUTS[head]} == {row.output for row in rows}
    assert {row.batch for row in rows} == {0, 1, 3}
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


def without_residual(model):
    for node in nodes(model, "Add"):
        if all("bias" not in name and "Constant" not in name for name in node.input):
            node.op_type = "Max"


def other_kind(old, new):
    def plant(model):
        for node in nodes(model, old):
            node.op_type = new

    return plant


def shifted(model):
    """The kernel a pixel further down."""
    for node in nodes(model, "Conv"):
        pads = next((each for each in node.attribute if each.name == "pads" and any(each.ints)), None)
        if pads:
            top, left, bottom, right = pads.ints
            pads.ints[:] = [top + 1, left, bottom - 1, right]


def one_weight(key):
    def plant(arrays):
        flat = arrays[key].reshape(-1)
        flat[np.argmax(np.abs(flat))] *= np.float32(1.01)

    return plant


FAULTS = {
    (GELU, "another epsilon"): epsilon,
    (RELU, "another epsilon"): epsilon,
    (GELU, "height and width swapped"): turned,
    (RELU, "height and width swapped"): turned,
    (GELU, "residuals lost"): without_residual,
    (RELU, "a leaky activation"): other_kind("Relu", "LeakyRelu"),
    (GELU, "tanh for erf"): other_kind("Erf", "Tanh"),
    (RELU, "kernels shifted by a pixel"): shifted,
    (GELU, "largest instead of mean"): other_kind("ReduceMean", "ReduceMax"),
}


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_fault_in_the_graph_fails_the_gate(tmp_path, name, fault):
    rows = compared(onnx_tiny.written(tmp_path / "a.onnx", name, edit=FAULTS[name, fault]), name)
    assert all(row.passed for row in rows if row.output == "variables")
    assert proofs.failed(rows) == {"logits"}
    assert max(row.ratio for row in rows if row.ratio is not None) > 2 * RATIO


def test_tanh_gelu_fails_the_gate(tmp_path, monkeypatch):
    """As an exporter would write it that took one GELU for the other."""
    monkeypatch.setitem(convmixer.ACTIVATIONS, "gelu", lambda: nn.GELU("tanh"))
    graph = torch_to_onnx.export_onnx(tiny.source(GELU), "logits", channels_last=False)
    rows = compared(onnx_file.write(tmp_path / "a.onnx", graph, tiny.weights(GELU), 48, {}), GELU)
    assert proofs.failed(rows) == {"logits"}


@pytest.mark.parametrize(
    ("name", "key"), [(GELU, "blocks.1.1.weight"), (RELU, "blocks.1.0.fn.0.weight"), (GELU, "head.weight")]
)
def test_one_weight_changed_by_a_hundredth_shows_by_itself_and_in_the_outputs(tmp_path, name, key):
    arrays = tiny.weights(name)
    one_weight(key)(arrays)
    rows = compared(onnx_tiny.written(tmp_path / "a.onnx", name, arrays=arrays), name)
    assert [row.variable for row in rows if row.output == "variables" and not row.passed] == [key]
    assert proofs.failed(rows) == {"variables", "logits"}


def test_a_last_digit_of_one_weight_is_no_copy(tmp_path):
    arrays = tiny.weights(GELU)
    arrays["stem.0.bias"][0] = np.nextafter(arrays["stem.0.bias"][0], np.float32(1))
    rows = compared(onnx_tiny.written(tmp_path / "a.onnx", GELU, arrays=arrays), GELU)
    assert "variables" in proofs.failed(rows)


def test_source_with_another_epsilon_is_not_the_file_s(tmp_path):
    """Of what is written, not of what was edited afterwards."""
    architecture = replace(tiny.architecture(GELU), batch_norm_epsilon=2e-5)
    model = convmixer.build_convmixer(architecture, tiny.weights(GELU))
    graph = torch_to_onnx.export_onnx(model, "logits", channels_last=False)
    rows = compared(onnx_file.write(tmp_path / "a.onnx", graph, tiny.weights(GELU), 48, {}), GELU)
    assert proofs.failed(rows) == {"logits"}
