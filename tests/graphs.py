"""What TensorFlow really executes: its graphs before and after Grappler."""

from tensorflow.python.eager import context


def executed(call):
    """The graphs that `call` is the first to run, as GraphDef: [(before Grappler, after)]."""
    context.context().enable_run_metadata()
    try:
        context.context().export_run_metadata()  # TensorFlow kept those of functions that ran before, too
        call()
        graphs = context.context().export_run_metadata().function_graphs
    finally:
        context.context().disable_run_metadata()
    return [(graph.pre_optimization_graph, graph.post_optimization_graph) for graph in graphs]
