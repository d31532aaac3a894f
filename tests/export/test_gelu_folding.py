"""Where GELU's constants may move, and where not. What it computes then, the parity of whole models shows."""

import onnx.helper
import pytest

from utils.export.gelu_folding import FOLDED, fold_gelu
from utils.export.onnx_tf_compat import import_onnx_tf

OnnxNode = import_onnx_tf().OnnxNode


def nodes(**changed):
    """Grouped Conv, exact Gelu and BatchNormalization, with transposes between; `changed`: attributes by operator."""
    attributes = {"Conv": {"group": 4}, "Gelu": {}} | changed
    made = [
        onnx.helper.make_node("Conv", ["x", "kernel", "bias"], ["a"], **attributes["Conv"]),
        onnx.helper.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 3, 1]),
        onnx.helper.make_node("Gelu", ["b"], ["c"], **attributes["Gelu"]),
        onnx.helper.make_node("Transpose", ["c"], ["d"], perm=[0, 3, 1, 2]),
        onnx.helper.make_node("BatchNormalization", ["d", "scale", "offset", "mean", "variance"], ["y"]),
    ]
    return [OnnxNode(node) for node in made]


def marked(found):
    return [node.op_type for node in found if FOLDED in node.attrs]


def reader(name):
    return OnnxNode(onnx.helper.make_node("Relu", [name], ["z"]))


def test_gelu_between_a_grouped_convolution_and_batch_norm_is_folded_and_the_caller_s_nodes_stay():
    given = nodes()
    found, scaled = fold_gelu(given, "y")
    assert marked(found) == ["Gelu", "BatchNormalization"]
    assert scaled == {"kernel", "bias"}
    assert marked(given) == []
    assert [node.op_type for node in found] == [node.op_type for node in given]


@pytest.mark.parametrize(
    ("given", "output"),
    [
        (nodes(Conv={}), "y"),  # dense
        (nodes(Gelu={"approximate": "tanh"}), "y"),
        (nodes()[:-1], "d"),  # nothing behind
        ([*nodes()[:4], reader("d")], "z"),  # another layer behind
        ([*nodes()[:2], reader("b")], "z"),
        ([*nodes(), reader("a")], "y"),  # read by others
        ([*nodes(), reader("c")], "y"),
        ([*nodes(), reader("kernel")], "y"),
        (nodes(), "a"),  # given out
        (nodes(), "d"),
    ],
)
def test_elsewhere_it_stays_whole(given, output):
    found, scaled = fold_gelu(given, output)
    assert marked(found) == []
    assert not scaled
