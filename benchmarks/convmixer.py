"""ConvMixer against plain onnx-tf, PyTorch and ONNX Runtime: `python -m benchmarks.convmixer`, or `make bench`.

Leaves `convmixer_conversion` and `convmixer_latency` in assets/tables, each as .md (the table) and .json (all samples).
A target that is missed is a "no" in the table and no failure of the run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import conversion, latency, tables
from benchmarks.contenders import THREADS
from benchmarks.machine import description
from utils.models.variants import VARIANTS

PARTS = ("conversion", "latency")
TABLES = Path(__file__).resolve().parent.parent / "assets" / "tables"
CONVERSION_VARIANTS = ["convmixer_1536_20"]
LATENCY_VARIANTS = ["convmixer_1024_20", "convmixer_768_32"]
QUICK_VARIANTS = ["convmixer_tiny"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the tables, print them."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(arguments)
    folder = options.output_dir or (Path("exports", "tables") if options.quick else TABLES)
    notes = {**description("convmixer", arguments), "weights": conversion.WEIGHTS}
    if "conversion" in options.parts:
        variants = options.variants or (QUICK_VARIANTS if options.quick else CONVERSION_VARIANTS)
        samples = _progress(conversion.samples(variants, options.repeats or (1 if options.quick else 5)))
        method = (
            "PyTorch model in memory to SavedModel folder on disk; each sample in a fresh process, the sides in turns, "
            "medians; imports are not counted; peak memory is above what imports take, with the PyTorch model, "
            f"which holds {samples[-1]['model_mb']:.0f} MB of it on either side"
        )
        _write(folder, "conversion", "Conversion of ConvMixer", {**notes, "method": method}, samples)
    if "latency" in options.parts:
        variants = options.variants or (QUICK_VARIANTS if options.quick else LATENCY_VARIANTS)
        samples = _progress(latency.samples(variants, options.repeats or (3 if options.quick else 15)))
        method = (
            f"one inference, {THREADS} threads, medians; one process per column and setting of oneDNN "
            "(TF_ENABLE_ONEDNN_OPTS, for the first three columns), all alive at a time and taking turns; logits "
            f"compared before; images of {', '.join(f'{VARIANTS[v].image_size} pixels ({v})' for v in variants)}"
        )
        _write(folder, "latency", "Latency of ConvMixer", {**notes, "method": method}, samples)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convmixer", description=__doc__.splitlines()[0])
    known = sorted(name for name, variant in VARIANTS.items() if variant.family == "convmixer")
    defaults = f"conversion of {', '.join(CONVERSION_VARIANTS)}, latency of {', '.join(LATENCY_VARIANTS)}"
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (both)")
    parser.add_argument("--variants", nargs="+", choices=known, help=f"in both parts (else {defaults})")
    parser.add_argument("--repeats", type=_positive, help="conversions per side (5), rounds of inferences (15)")
    parser.add_argument("--quick", action="store_true", help="convmixer_tiny, few repeats, into exports/tables")
    parser.add_argument("--output-dir", type=Path, help=f"where the tables go (assets/{TABLES.name})")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _progress(samples: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """All samples, each printed as it comes: a full run takes many minutes."""
    collected = []
    for sample in samples:
        labels = [f"{value}" for value in sample.values() if isinstance(value, str | int)]
        print(f"{' '.join(labels)}: {sample['seconds']:.3f} s", flush=True)
        collected.append(sample)
    return collected


def _write(folder: Path, part: str, title: str, notes: dict[str, str], samples: list[dict[str, Any]]) -> None:
    table = {"conversion": tables.conversion_table, "latency": tables.latency_table}[part](samples)
    path = tables.write(folder, f"convmixer_{part}", title, notes, table, samples)
    print(f"\n{table}\n\n{path}", flush=True)


if __name__ == "__main__":
    main()
