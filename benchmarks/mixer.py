"""Both kinds of exported Mixer against `jax.jit` of the model they come from: `python -m benchmarks.mixer`.

Each contender is a process of its own, and they take turns as in `benchmarks.latency`. Leaves `mixer_latency` in
assets/tables, as .md (the table) and .json (all samples). A target that is missed is a "no" in the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import command, latency, tables
from benchmarks.contenders import THREADS
from benchmarks.exports import WEIGHTS
from utils.tables import markdown

LATENCY_VARIANTS = ["mixer_b16_i1k", "mixer_l16_i1k"]
QUICK_VARIANTS = ["mixer_tiny"]
PACKAGES = ("jax", "jaxlib", "flax", "tensorflow", "numpy")
TARGETS = {"xla": tables.Target(1.05), "plain": tables.Target(1.15)}


def table(samples: Sequence[Mapping[str, Any]]) -> str:
    """Median milliseconds of one inference, a row for each variant, batch, kind of operations and oneDNN."""
    headings = ["variant", "batch", "operations", "oneDNN", "ms", "`jax.jit`, ms", "ratio", "target", "met"]
    rows = []
    groups = tables.grouped(samples, "variant", "batch", "contender", "onednn")
    for (variant, batch, contender, onednn), group in groups.items():
        if contender == "jax":
            continue
        ours, theirs = (tables.median_of(g, "seconds") for g in (group, groups[variant, batch, "jax", None]))
        milliseconds = [f"{1000 * x:.1f}" for x in (ours, theirs)]
        verdict = tables.verdict(ours / theirs, TARGETS[contender])
        rows.append([variant, str(batch), contender, tables.SWITCH[onednn], *milliseconds, *verdict])
    return markdown(headings, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the table, print it."""
    parser = command.parser("mixer", __doc__, quick="mixer_tiny, 3 rounds", repeats="rounds of inferences (15)")
    command.add_variants(parser, LATENCY_VARIANTS, "mixer")
    options = parser.parse_args(arguments)
    variants = command.chosen(options, LATENCY_VARIANTS, QUICK_VARIANTS)
    notes = command.notes("mixer", arguments, PACKAGES) | {
        "weights": WEIGHTS,
        "method": (
            f"one inference, {THREADS} threads, medians; one process per contender, taking turns; logits "
            "compared before; oneDNN is TF_ENABLE_ONEDNN_OPTS, which TensorFlow sets by itself on CPUs with AVX-512 "
            "VNNI or newer"
        ),
    }
    samples = command.shown(latency.samples(variants, options.repeats or (3 if options.quick else 15)))
    command.leave(options, "mixer_latency", "Latency of MLP-Mixer", notes, table, samples)


if __name__ == "__main__":
    main()
