"""The ONNX graph: every weight by its name, none of their bytes, layers channels-last, and errors for the rest."""

import numpy as np
import onnx
import pytest
import tiny
import torch
from torch import nn

from utils.errors import ConversionError
from utils.export import torch_to_onnx
from utils.models.convmixer import ConvMixer
from utils.models.variants import get_variant

every_model = pytest.mark.parametrize("name", tiny.NAMES)
NHWC_TO_NCHW, NCHW_TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]


def inputs_of(graph):
    return {
        value.name: tuple(dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim)
        for value in graph.graph.input
    }


def attributes(node):
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


@every_model
@pytest.mark.parametrize(("head", "output"), tiny.OUTPUTS.items())
def test_every_weight_is_an_input_by_its_name_and_shape_in_the_state_dict(name, head, output):
    graph = tiny.graph(name, head)
    found = inputs_of(graph)
    assert found.pop("inputs") == ("batch", "height", "width", 3)
    state = tiny.source(name, head).state_dict()
    assert found == {key: tuple(t.shape) for key, t in state.items() if not key.endswith("num_batches_tracked")}
    (result,) = graph.graph.output
    assert result.name == output
    units = tiny.expected(name)[output].shape[1]
    assert [dim.dim_value or dim.dim_param for dim in result.type.tensor_type.shape.dim] == ["batch", units]


@every_model
def test_graph_holds_no_weight_and_is_small(name):
    graph = tiny.graph(name)
    assert len(graph.graph.initializer) == 0
    constants = [
        onnx.numpy_helper.to_array(a.t) for node in graph.graph.node for a in node.attribute if a.name == "value"
    ]
    assert sum(constant.size for constant in constants) <= 2  # the axes of the pooling
    weights = sum(array.nbytes for array in tiny.weights(name).values())
    assert graph.ByteSize() < 16_000 < weights


@every_model
def test_graph_passes_the_checker_with_full_shape_inference(name):
    graph = tiny.graph(name)
    onnx.checker.check_model(graph, full_check=True)
    assert graph.opset_import[0].version == torch_to_onnx.OPSET


def test_operators_are_the_model_s_own_once_each():
    found = [node.op_type for node in tiny.graph("convmixer_tiny").graph.node if node.op_type != "Transpose"]
    unit = ["Conv", "Gelu", "BatchNormalization"]
    assert found == unit + 3 * [*unit, "Add", *unit] + ["Constant", "ReduceMean", "Flatten", "Gemm"]
    found = {node.op_type for node in tiny.graph("convmixer_tiny_relu").graph.node}
    assert "Relu" in found
    assert "Gelu" not in found


@every_model
def test_all_but_convolutions_and_batch_norms_is_channels_last(name):
    """Follows the layout from the image on: transposes turn it, and only spatial layers want channels first."""
    last = {"inputs": True}
    wants = {"Conv": False, "BatchNormalization": False, "Gelu": True, "Relu": True, "Add": True, "ReduceMean": True}
    for node in tiny.graph(name).graph.node:
        if node.op_type in ("Constant", "Flatten", "Gemm"):
            continue
        images = [value for value in node.input if value in last]
        found = {last[value] for value in images}
        if node.op_type == "Transpose":
            assert attributes(node)["perm"] == (NHWC_TO_NCHW if found == {True} else NCHW_TO_NHWC), node.name
            last[node.output[0]] = found == {False}
        else:
            assert found == {wants[node.op_type]}, node.name
            last[node.output[0]] = wants[node.op_type]
    assert len(last) > 20


@every_model
def test_onnx_s_own_evaluation_of_the_graph_equals_the_upstream_definition(name):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(tiny.graph(name).SerializeToString())
    golden, names = tiny.expected(name), [value.name for value in session.get_inputs()]
    feed = {key: array for key, array in tiny.weights(name).items() if key in names} | {"inputs": golden["inputs"]}
    (found,) = session.run(None, feed)
    assert tiny.relative_error(found, golden["logits"]) <= 1e-5


@every_model
def test_exporting_leaves_the_model_as_it_was(name):
    model = tiny.source(name).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    layers = [type(module) for module in model.modules()]
    torch_to_onnx.export_onnx(model, "logits")
    assert [type(module) for module in model.modules()] == layers
    assert all(module.training for module in model.modules())
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_equal_weights_are_not_merged_into_one():
    model = tiny.source("convmixer_tiny")
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.zero_()
    graph = torch_to_onnx.export_onnx(model, "logits")
    assert graph.SerializeToString() == tiny.graph("convmixer_tiny").SerializeToString()


# --- errors


class Small(nn.Module):
    """A convolution and whatever follows it."""

    def __init__(self, after):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 2, stride=2)
        self.after = after

    def forward(self, x):
        return self.after(self.first(x).mean((2, 3)))


class Lgamma(nn.Module):
    def forward(self, x):
        return torch.lgamma(x)


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return x * 2


def test_operator_that_onnx_lacks_is_a_conversion_error_that_names_it():
    with pytest.raises(ConversionError, match=r"(?s)Small could not be exported to ONNX.*lgamma"):
        torch_to_onnx.export_onnx(Small(Lgamma()), "logits")


def test_weight_that_the_graph_does_not_read_is_an_error_that_names_it():
    with pytest.raises(ConversionError, match=r"lost weights \['after\.scale'\]"):
        torch_to_onnx.export_onnx(Small(Unused()), "logits")


def test_weight_that_an_exporter_renames_is_an_error_that_names_both(monkeypatch):
    def rename(graph):
        graph.graph.input[1].name = "other"
        for node in graph.graph.node:
            for position, name in enumerate(node.input):
                node.input[position] = "other" if name == "stem.0.weight" else name
        return graph

    monkeypatch.setattr(torch_to_onnx, "_branch_channels_last", rename)
    with pytest.raises(ConversionError, match=r"lost weights \['stem\.0\.weight'\] and has unknown ones \['other'\]"):
        torch_to_onnx.export_onnx(tiny.source("convmixer_tiny"), "logits")


def test_graph_that_the_checker_refuses_is_a_conversion_error(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise onnx.checker.ValidationError("no such thing")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(ConversionError, match="ConvMixer could not be exported to ONNX: no such thing"):
        torch_to_onnx.export_onnx(tiny.source("convmixer_tiny"), "logits")


# --- full size


@pytest.mark.slow
def test_full_size_model_is_exported_without_memory_for_its_weights():
    psutil = pytest.importorskip("psutil")
    architecture = get_variant("convmixer_768_32").architecture
    with torch.device("meta"):
        model = ConvMixer(architecture)
    torch_to_onnx.export_onnx(tiny.source("convmixer_tiny"), "logits")  # what PyTorch loads once is not the model's
    before = psutil.Process().memory_info().rss
    graph = torch_to_onnx.export_onnx(model, "logits")
    grown = psutil.Process().memory_info().rss - before
    shapes = {key: shape for key, shape in inputs_of(graph).items() if key != "inputs"}
    trainable = sum(int(np.prod(shape)) for key, shape in shapes.items() if "running_" not in key)
    assert trainable == get_variant("convmixer_768_32").parameters
    assert graph.ByteSize() < 200_000
    assert grown < 4 * trainable  # bytes: less than the weights in float32
