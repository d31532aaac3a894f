"""Seconds and memory of a ConvMixer's conversion: `python -m benchmarks.conversion`, or `make bench`.

PyTorch model to SavedModel folder, ours against plain onnx-tf. Each sample is a fresh process, the two sides take
turns. Before the clock starts a process has imported everything (by converting the tiny variant, so that what is
imported late is there too) and holds the PyTorch model. Peak memory is counted above what was resident after the
imports, so it includes the model, on both sides. Afterwards the SavedModel is loaded and compared with the PyTorch
model. Leaves `convmixer_conversion` in assets/tables, as .md (the table) and .json (all samples).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from gate.exports import WEIGHTS, noise, weights_of

from benchmarks import command
from benchmarks.processes import Worker
from utils.families.variants import Variant, get_variant
from utils.machine.measure import Stages
from utils.parity.comparison import compare_outputs
from utils.parity.report import Report
from utils.tables import markdown

if TYPE_CHECKING:
    from torch import nn

SAVED_MODEL = "saved_model"
TINY = "convmixer_tiny"
FULL = "convmixer_1536_20"


def convert_ours(variant: Variant, model: nn.Module, weights: Mapping[str, np.ndarray], folder: Path) -> None:
    """The conversion of this repository, without packaging and the parity gate."""
    from utils.export.onnx_to_tf import export_tensorflow
    from utils.export.saved_model import save_model
    from utils.export.torch_to_onnx import export_onnx

    exported = export_tensorflow(export_onnx(model, "logits"), weights, variant.image_size, "logits")
    save_model(exported, folder / SAVED_MODEL)


def convert_plain(variant: Variant, model: nn.Module, _weights: Mapping[str, np.ndarray], folder: Path) -> None:
    """What one writes without this repository: torch.onnx.export, then onnx-tf's prepare and export_graph."""
    import onnx
    import torch

    from utils.export.onnx_to_tf import import_onnx_tf
    from utils.machine.devices import keep_triton_out

    keep_triton_out()
    backend = import_onnx_tf()
    file = folder / "model.onnx"
    torch.onnx.export(
        model,
        (torch.zeros(1, 3, variant.image_size, variant.image_size),),
        file,
        dynamo=False,  # the other exporter starts at opset 18
        opset_version=17,  # the last that onnx-tf knows
        input_names=["inputs"],
        output_names=["logits"],
        dynamic_axes={"inputs": {0: "batch"}, "logits": {0: "batch"}},
    )
    backend.prepare(onnx.load(file)).export_graph(str(folder / SAVED_MODEL))


# Each takes a variant, its PyTorch model, that one's weights and an empty folder, and leaves SAVED_MODEL in it.
SIDES: dict[str, Callable[[Variant, Any, Mapping[str, np.ndarray], Path], None]] = {
    "ours": convert_ours,
    "plain onnx-tf": convert_plain,
}
# From NHWC to what the side's SavedModel takes: plain onnx-tf keeps PyTorch's order.
AXES = {"ours": (0, 1, 2, 3), "plain onnx-tf": (0, 3, 1, 2)}


def samples(variants: Sequence[str], repeats: int) -> Iterator[dict[str, Any]]:
    """What `prepare` measures, with `side`, `variant` and `repeat`; the sides take turns."""
    for variant in variants:
        for repeat in range(repeats):
            # The other one first every other time, lest one side always gets the busier disk.
            for side in sorted(SIDES, reverse=bool(repeat % 2)):
                with (
                    tempfile.TemporaryDirectory() as folder,
                    Worker(f"{side} conversion of {variant}", prepare, side, variant) as worker,
                ):
                    yield {"side": side, "variant": variant, **worker(Path(folder)), "repeat": repeat}


def prepare(side: str, variant_name: str) -> Callable[[Path], dict[str, Any]]:
    """For a `Worker`: imports and the PyTorch model; the function converts it once, into `folder`/SAVED_MODEL.

    It gives `seconds`, `peak_mb` (above what is resident after imports), `model_mb` (the part of it that the PyTorch
    model held before the clock started), and `relative_error` of the SavedModel. ParityError when that does not compute
    what the model does.
    """
    variant, convert = get_variant(variant_name, "convmixer"), SIDES[side]
    with tempfile.TemporaryDirectory() as folder:
        warm_up = get_variant(TINY, "convmixer")
        model, weights = _model(warm_up)
        convert(warm_up, model, weights, Path(folder))
        _check(model, warm_up, side, Path(folder))
    imports_mb = memory_mb()
    model, weights = _model(variant)

    def measure(folder: Path) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        model_mb = memory_mb()
        count_peak_memory()
        started = time.perf_counter()
        convert(variant, model, weights, folder)
        return {
            "seconds": time.perf_counter() - started,
            "peak_mb": Stages().peak_memory_mb - imports_mb,
            "model_mb": model_mb - imports_mb,
            "relative_error": _check(model, variant, side, folder),
        }

    return measure


def _model(variant: Variant) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """The PyTorch model, and its weights as arrays, which share the model's memory."""
    from utils.families.convmixer.source import build_convmixer

    weights = weights_of(variant)
    return build_convmixer(variant.architecture, weights), weights


def memory_mb() -> float:
    """Resident memory of this process in MB of 1,000,000 bytes."""
    return psutil.Process().memory_info().rss / 1e6


def count_peak_memory() -> None:
    """Lets peak memory count from here on, which Linux alone can do: see proc(5), "clear_refs"."""
    Path("/proc/self/clear_refs").write_text("5")


def _check(model: nn.Module, variant: Variant, side: str, folder: Path) -> float:
    """The SavedModel's error relative to the PyTorch model; ParityError when it is beyond rounding."""
    import tensorflow as tf

    from utils.families.convmixer.source import as_nhwc

    loaded = tf.saved_model.load(str(folder / SAVED_MODEL))
    serve = loaded.signatures["serving_default"]
    rows = compare_outputs(
        as_nhwc(model),
        lambda images: serve(inputs=tf.constant(images.transpose(AXES[side])))["logits"].numpy(),
        {"noise": noise(1, variant.image_size)},
        f"logits of {side}",
    )
    Report(rows).require()
    return rows[0].relative


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: median time and peak memory by variant."""
    rows = []
    groups = command.grouped(found, "variant", "side")
    for variant in dict.fromkeys(sample["variant"] for sample in found):
        sides = [groups[variant, side] for side in SIDES]
        for what, key, form in (("time", "seconds", "{:.1f} s"), ("peak memory", "peak_mb", "{:.0f} MB")):
            ours, plain = (command.median_of(side, key) for side in sides)
            rows.append([variant, what, form.format(ours), form.format(plain), f"{ours / plain:.2f}"])
    return markdown(["variant", "", *SIDES, "ratio"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the table, print it."""
    parser = command.parser("conversion", __doc__, quick=f"{TINY}, once", repeats="conversions per side (5)")
    command.add_variants(parser, FULL, "convmixer")
    options = parser.parse_args(arguments)
    variants = options.variants or [TINY if options.quick else FULL]
    notes = command.notes("conversion", arguments) | {"weights": WEIGHTS}
    found = command.shown(samples(variants, options.repeats or (1 if options.quick else 5)))
    notes["method"] = (
        "PyTorch model in memory to SavedModel folder on disk; each sample in a fresh process, the sides in turns, "
        "medians; imports are not counted; peak memory is above what imports take, with the PyTorch model, "
        f"which holds {found[-1]['model_mb']:.0f} MB of it on either side"
    )
    command.leave(options, "convmixer_conversion", "Conversion of ConvMixer", notes, table, found)


if __name__ == "__main__":
    main()
