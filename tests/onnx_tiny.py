"""The tiny ConvMixers as ONNX files; the graphs are made once."""

import functools

import tiny

from utils.families.variants import OUTPUTS


@functools.cache
def _graph_bytes(name, head):
    from utils.export.torch_to_onnx import export_onnx

    return export_onnx(tiny.source(name, head), OUTPUTS[head], channels_last=False).SerializeToString()


def graph(name, head="classification"):
    """The graph as PyTorch computes, without weights; a copy that a test may edit."""
    import onnx

    return onnx.load_from_string(_graph_bytes(name, head))


def written(path, name, head="classification", image_size=0, arrays=None, metadata=None, edit=None):
    """The file at `path`; `edit(model)` changes the graph before it is written."""
    from utils.export import onnx_file

    model = graph(name, head)
    if edit:
        edit(model)
    arrays = tiny.weights(name) if arrays is None else arrays
    return onnx_file.write(path, model, arrays, image_size, metadata or {"name": name})
