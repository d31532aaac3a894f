"""What TensorFlow really executes: its graphs before and after Grappler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# No arithmetic over activations: they read, rename or reshape.
_FREE = {"Const", "Identity", "ReadVariableOp", "Reshape", "_Arg", "_Retval"}


def executed(call: Callable[[], object]) -> list[tuple[Any, Any]]:
    """The graphs that `call` is the first to run, as GraphDef: [(before Grappler, after)]."""
    from tensorflow.python.eager import context

    context.context().enable_run_metadata()
    try:
        context.context().export_run_metadata()  # TensorFlow kept those of functions that ran before, too
        call()
        graphs = context.context().export_run_metadata().function_graphs
    finally:
        context.context().disable_run_metadata()
    return [(graph.pre_optimization_graph, graph.post_optimization_graph) for graph in graphs]


def passes(call: Callable[[], object]) -> int:
    """How many operations `call` runs over activations, which Grappler and oneDNN may have made one of several.

    Of parameters, most are vectors: what has more than one axis, as far as that is known, and is no view, counts.
    The graph must be new.
    """
    import tensorflow as tf

    count = 0
    for _, graph_def in executed(call):
        with tf.Graph().as_default() as graph:
            tf.graph_util.import_graph_def(graph_def, name="")
        outputs = [op.outputs[0].shape.rank for op in graph.get_operations() if op.type not in _FREE and op.outputs]
        count += sum((rank or 0) > 1 for rank in outputs)
    return count
