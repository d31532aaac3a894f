"""Moves the constants of an exact GELU into the layers around it: two passes over activations fewer, for inference.

gelu(x) = 0.5 * x * (1 + erf(x * r)), with r the root of a half. A convolution whose kernel and bias are multiplied by r
gives u = x * r at once, and gelu(x) = r * u * (1 + erf(u)). The r in front goes into the scale of the BatchNorm behind.
In training that BatchNorm normalises by the batch, whose epsilon would then be another number, so it is left as it is.

Only after a grouped convolution: a dense one may become a matrix product, in which oneDNN computes a GELU that it finds
whole. TFLite, too, knows none but whole ones, and is given a model of its own.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

ROOT_OF_HALF = math.sqrt(0.5)
FOLDED = "folded_gelu"  # an attribute of no operator of ONNX's: set for the handlers of Gelu and BatchNormalization


def fold_gelu(nodes: Sequence[Any], output: str) -> tuple[list[Any], set[str]]:
    """The nodes, marked where constants moved, and the names of kernels and biases to be multiplied by `ROOT_OF_HALF`.

    nodes: onnx-tf's, in the order of the data, which stay as they are. output: the graph's, by name.
    Folds where a grouped Conv, an exact Gelu and a BatchNormalization follow each other, transposes aside, and nothing
    else reads what passes between them or the Conv's weights.
    """
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in nodes:
        for name in node.inputs:
            readers[name].append(node)

    def next_of(node: Any) -> Any | None:
        """The one that reads `node`, past transposes."""
        while node and len(readers[node.outputs[0]]) == 1 and node.outputs[0] != output:
            (node,) = readers[node.outputs[0]]
            if node.op_type != "Transpose":
                return node
        return None

    marked, scaled = {}, set()
    for conv in nodes:
        if conv.op_type != "Conv" or conv.attrs.get("group", 1) == 1:
            continue
        gelu = next_of(conv)
        norm = next_of(gelu) if gelu and _is_exact_gelu(gelu) else None
        if norm and norm.op_type == "BatchNormalization" and all(len(readers[name]) == 1 for name in conv.inputs[1:]):
            scaled.update(conv.inputs[1:])
            marked |= {node.outputs[0]: _marked(node) for node in (gelu, norm)}
    return [marked.get(node.outputs[0], node) for node in nodes], scaled


def _is_exact_gelu(node: Any) -> bool:
    return node.op_type == "Gelu" and node.attrs.get("approximate", "none") in ("none", b"none")


def _marked(node: Any) -> Any:
    node = copy.copy(node)
    node.attrs = node.attrs | {FOLDED: True}
    return node
