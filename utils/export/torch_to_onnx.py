"""PyTorch -> ONNX: a checked graph that names every weight and holds none of its bytes.

Channels-last on the way to TensorFlow, channels-first, as PyTorch has it, for `onnx_file`. Knows no particular model.
A model's spatial layers must be `nn` modules listed in SPATIAL_LAYERS, and everything between them elementwise: then
every layer can be exported channels-last.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Mapping

import onnx
import torch
from torch import nn

from utils.errors import ConversionError
from utils.machine.devices import keep_triton_out

OPSET = 20  # the first with `Gelu`, and the last that the TorchScript exporter writes
# Of the distributed .onnx file: 17 is widely supported; GELU is written with Erf, which ONNX Runtime and OpenVINO fuse.
FILE_OPSET = 17
_PROBE_PATCHES = 2  # the traced image is this many strides wide: tracing computes, and the graph has no sizes in it


class ChannelsLast(nn.Module):
    """A channels-first layer with NHWC in and out; the permutations meet inverse ones in TensorFlow and vanish."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return self.layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class GlobalAveragePool(nn.Module):
    """Mean over height and width, the axis `first` and the one behind it, kept as axes of length one.

    One axis after the other: TensorFlow, and ONNX Runtime's GlobalAveragePool, add all terms of a mean one by one, so
    their error grows with the number, and means of rows have few each, as PyTorch's own sum has.
    """

    def __init__(self, first: int) -> None:
        super().__init__()
        self._first = first

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return x.mean(self._first, keepdim=True).mean(self._first + 1, keepdim=True)


class WeightsAsInputs(nn.Module):
    """A model that takes its weights as further inputs: the exporter handles parameters' bytes, but not inputs'."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.weights = {n: t for n, t in model.state_dict().items() if not n.endswith("num_batches_tracked")}
        self._model = (model,)  # in a tuple, so that its parameters are not found to be this module's

    def forward(self, x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:  # noqa: D102
        (model,) = self._model
        for name, weight in zip(self.weights, weights, strict=True):
            layer, _, attribute = name.rpartition(".")
            # What lies in __dict__ is found before parameters and buffers. (torch.func.functional_call does the same
            # in a cleaner way, but refuses to be traced.)
            model.get_submodule(layer).__dict__[attribute] = weight
        return model(x)


SPATIAL_LAYERS = {
    nn.Conv2d: ChannelsLast,
    nn.BatchNorm2d: ChannelsLast,
    nn.AdaptiveAvgPool2d: lambda _layer: GlobalAveragePool(1),
}
# Layers that are replaced for the channels-first graph.
POOLING = {nn.AdaptiveAvgPool2d: lambda _layer: GlobalAveragePool(2)}


def export_onnx(model: nn.Module, output: str, channels_last: bool = True) -> onnx.ModelProto:
    """The ONNX graph of `model`, in evaluation mode: `inputs` float32 [batch, height, width, channels] -> `output`.

    channels_last: otherwise `inputs` are [batch, channels, height, width], the opset is `FILE_OPSET`, and nothing is
    transposed (ONNX Runtime takes all transposes out again, OpenVINO does not) or padded by a deprecated attribute.
    The weights are further graph inputs, under their names in `model.state_dict()` and in PyTorch's axis order.
    Raises ConversionError when the exporter or ONNX's checker refuses the model, or a weight is lost on the way.
    """
    keep_triton_out()
    layers = SPATIAL_LAYERS if channels_last else POOLING
    skeleton = WeightsAsInputs(_replaced(_without_weights(model), layers).eval())
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    stride, channel = max(layer.stride[0] for layer in convolutions), {"channel": convolutions[0].in_channels}
    sides = {"height": _PROBE_PATCHES * stride, "width": (_PROBE_PATCHES + 1) * stride}
    axes = {"batch": 1} | (sides | channel if channels_last else channel | sides)
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():  # the exporter announces its successor, which starts past onnx-tf's opsets
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.onnx.export(
                skeleton,
                (torch.zeros(*axes.values()), *skeleton.weights.values()),
                buffer,
                dynamo=False,
                do_constant_folding=False,
                opset_version=OPSET if channels_last else FILE_OPSET,
                input_names=["inputs", *(name.replace(".layer.", ".") for name in skeleton.weights)],
                output_names=[output],
                dynamic_axes={
                    "inputs": {index: name for index, name in enumerate(axes) if name != "channel"},
                    output: {0: "batch"},
                },
            )
        graph = onnx.load_from_string(buffer.getvalue())
        graph = _branch_channels_last(graph) if channels_last else _with_pads(graph)
        onnx.checker.check_model(graph, full_check=True)
    except (torch.onnx.errors.OnnxExporterError, onnx.checker.ValidationError, RuntimeError) as error:
        raise ConversionError(f"{type(model).__name__} could not be exported to ONNX: {error}") from error
    found = {value.name for value in graph.graph.input} - {"inputs"}
    expected = {n for n in model.state_dict() if not n.endswith("num_batches_tracked")}
    if found != expected:
        raise ConversionError(
            f"the ONNX graph lost weights {sorted(expected - found)} and has unknown ones {sorted(found - expected)}"
        )
    return graph


def _without_weights(model: nn.Module) -> nn.Module:
    """A copy of `model` whose tensors have shapes but (being one number, repeated) no memory."""
    stand_ins = {}
    for tensor in (*model.parameters(), *model.buffers()):
        repeated = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
        is_parameter = isinstance(tensor, nn.Parameter)
        stand_ins[id(tensor)] = nn.Parameter(repeated, requires_grad=False) if is_parameter else repeated
    return copy.deepcopy(model, stand_ins)


def _replaced(model: nn.Module, layers: Mapping[type, Callable[[nn.Module], nn.Module]]) -> nn.Module:
    """`model` with those layers replaced, in place: with SPATIAL_LAYERS it takes and gives NHWC throughout."""
    for name, child in model.named_children():
        wrap = layers.get(type(child))
        setattr(model, name, wrap(child) if wrap else _replaced(child, layers))
    return model


def _with_pads(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Writes "same" padding, of strides of 1, in numbers: ONNX deprecates `auto_pad`, and not every runtime has it."""
    for node in graph.graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if "auto_pad" in attributes:
            sizes = zip(attributes["kernel_shape"].ints, attributes["dilations"].ints, strict=True)
            totals = [dilation * (size - 1) for size, dilation in sizes]
            pads = [*(total // 2 for total in totals), *(total - total // 2 for total in totals)]
            attributes["auto_pad"].CopyFrom(onnx.helper.make_attribute("pads", pads))
    return graph


def _branch_channels_last(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Let tensors that go several ways do so channels-last, by putting back a pair of inverse transposes.

    The exporter cancels such pairs, so a layer and a residual connection part at a channels-first tensor. For
    inference that is as good; but there gradients are summed, and TensorFlow would transpose each of them.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    ordered: dict[str, onnx.NodeProto] = {}  # by output, where it is first needed
    for node in graph.graph.node:
        result = node.output[0]
        ordered.setdefault(result, node)
        turned = [reader for reader in readers.get(result, []) if reader.op_type == "Transpose"]
        others = [reader for reader in readers.get(result, []) if reader.op_type != "Transpose"]
        if node.op_type == "Transpose" or not turned or not others:
            continue
        last, first = turned[0].output[0], f"{result}_channels_first"
        ordered[last] = turned[0]
        ordered[first] = onnx.helper.make_node("Transpose", [last], [first], name=first, perm=(0, 3, 1, 2))
        for reader in others:
            reader.input[0] = first
    nodes = [copy.deepcopy(node) for node in ordered.values()]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return graph
