"""The ONNX graph: every weight by its name, none of their bytes, layers channels-last, and errors for the rest."""

import math

import onnx
import pytest
import tiny
import torch
from torch import nn

from utils.errors import ConversionError
from utils.export import torch_to_onnx
from utils.families.convmixer.source import ConvMixer
from utils.families.variants import get_variant

NAME = "convmixer_tiny"


def inputs_of(graph):
    return {
        value.name: tuple(dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim)
        for value in graph.graph.input
    }


@pytest.mark.parametrize(("head", "output"), tiny.OUTPUTS.items())
def test_every_weight_is_an_input_by_its_name_and_shape_in_the_state_dict_and_none_is_inside(head, output):
    graph = tiny.graph(NAME, head)
    onnx.checker.check_model(graph, full_check=True)
    found = inputs_of(graph)
    assert found.pop("inputs") == ("batch", "height", "width", 3)
    state = tiny.source(NAME, head).state_dict()
    assert found == {key: tuple(t.shape) for key, t in state.items() if not key.endswith("num_batches_tracked")}
    (result,) = graph.graph.output
    assert result.name == output
    units = tiny.expected(NAME)[output].shape[1]
    assert [dim.dim_value or dim.dim_param for dim in result.type.tensor_type.shape.dim] == ["batch", units]
    assert len(graph.graph.initializer) == 0
    assert graph.ByteSize() < 16_000 < sum(array.nbytes for array in tiny.weights(NAME).values())


def test_operators_are_the_model_s_own_once_each():
    found = [node.op_type for node in tiny.graph(NAME).graph.node if node.op_type != "Transpose"]
    unit = ["Conv", "Gelu", "BatchNormalization"]
    assert found == unit + 3 * [*unit, "Add", *unit] + 2 * ["Constant", "ReduceMean"] + ["Flatten", "Gemm"]


def test_exporting_leaves_the_model_as_it_was():
    model = tiny.source(NAME).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    layers = [type(module) for module in model.modules()]
    torch_to_onnx.export_onnx(model, "logits")
    assert [type(module) for module in model.modules()] == layers
    assert all(module.training for module in model.modules())
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_equal_weights_are_not_merged_into_one():
    model = tiny.source(NAME)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.zero_()
    graph = torch_to_onnx.export_onnx(model, "logits")
    assert graph.SerializeToString() == tiny.graph(NAME).SerializeToString()


# --- errors


class Small(nn.Module):
    """A convolution and whatever follows it; `scale` may be read by nobody."""

    def __init__(self, after, **weights):
        super().__init__()
        self.first, self.after = nn.Conv2d(3, 4, 2, stride=2), after
        for name, weight in weights.items():
            setattr(self, name, nn.Parameter(weight))

    def forward(self, x):
        return self.after(self.first(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Small(torch.lgamma), "(?s)Small could not be exported to ONNX.*lgamma"),
        (Small(torch.sin, scale=torch.ones(4)), r"lost weights \['scale'\]"),
    ],
    ids=["operator that ONNX lacks", "weight that is not read"],
)
def test_what_cannot_be_exported_is_named(model, message):
    with pytest.raises(ConversionError, match=message):
        torch_to_onnx.export_onnx(model, "logits")


# --- full size


@pytest.mark.slow
def test_full_size_model_is_exported_without_memory_for_its_weights():
    with torch.device("meta"):  # of which no byte can be read
        model = ConvMixer(get_variant("convmixer_768_32").architecture)
    graph = torch_to_onnx.export_onnx(model, "logits")
    trainable = [shape for key, shape in inputs_of(graph).items() if key != "inputs" and "running_" not in key]
    assert sum(map(math.prod, trainable)) == get_variant("convmixer_768_32").parameters
    assert graph.ByteSize() < 200_000
