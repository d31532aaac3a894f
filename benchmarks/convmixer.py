"""ConvMixer against plain onnx-tf, PyTorch and ONNX Runtime: `python -m benchmarks.convmixer`, or `make bench`.

Leaves `convmixer_conversion` and `convmixer_latency` in assets/tables, each as .md (the table) and .json (all samples).
A target that is missed is a "no" in the table and no failure of the run.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import command, conversion, latency, tables
from benchmarks.contenders import THREADS
from benchmarks.exports import WEIGHTS
from utils.families.variants import VARIANTS

PARTS = ("conversion", "latency")
CONVERSION_VARIANTS = ["convmixer_1536_20"]
LATENCY_VARIANTS = ["convmixer_1024_20", "convmixer_768_32"]
QUICK_VARIANTS = ["convmixer_tiny"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the tables, print them."""
    repeats = "conversions per side (5), rounds of inferences (15)"
    parser = command.parser("convmixer", __doc__, quick="convmixer_tiny, few repeats", repeats=repeats)
    known = sorted(name for name, variant in VARIANTS.items() if variant.family == "convmixer")
    defaults = f"conversion of {', '.join(CONVERSION_VARIANTS)}, latency of {', '.join(LATENCY_VARIANTS)}"
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (both)")
    parser.add_argument("--variants", nargs="+", choices=known, help=f"in both parts (else {defaults})")
    options = parser.parse_args(arguments)
    notes = command.notes("convmixer", arguments) | {"weights": WEIGHTS}
    if "conversion" in options.parts:
        variants = options.variants or (QUICK_VARIANTS if options.quick else CONVERSION_VARIANTS)
        samples = command.shown(conversion.samples(variants, options.repeats or (1 if options.quick else 5)))
        method = (
            "PyTorch model in memory to SavedModel folder on disk; each sample in a fresh process, the sides in turns, "
            "medians; imports are not counted; peak memory is above what imports take, with the PyTorch model, "
            f"which holds {samples[-1]['model_mb']:.0f} MB of it on either side"
        )
        title, notes["method"] = "Conversion of ConvMixer", method
        command.leave(options, "convmixer_conversion", title, notes, tables.conversion_table, samples)
    if "latency" in options.parts:
        variants = options.variants or (QUICK_VARIANTS if options.quick else LATENCY_VARIANTS)
        samples = command.shown(latency.samples(variants, options.repeats or (3 if options.quick else 15)))
        notes["method"] = (
            f"one inference, {THREADS} threads, medians; one process per column and setting of oneDNN "
            "(TF_ENABLE_ONEDNN_OPTS, for the first three columns), all alive at a time and taking turns; logits "
            f"compared before; images of {', '.join(f'{VARIANTS[v].image_size} pixels ({v})' for v in variants)}; "
            "passes: operations over activations in the graph that TensorFlow executes"
        )
        keys, table = ("variant", "machine"), tables.latency_table
        command.leave(options, "convmixer_latency", "Latency of ConvMixer", notes, table, samples, keys)


if __name__ == "__main__":
    main()
