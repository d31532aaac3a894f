"""Speed and memory of a training step, export against source: `python -m benchmarks.training`.

A step is what fine-tuning does: forward, loss, gradients, SGD with momentum; of a new head alone, or of everything.
Every contender is a process of its own; those of one variant and part are alive together and take turns. Leaves
`training_convmixer` and `training_mixer` in assets/tables, as .md and .json. A target that is missed is a "no" there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import command, latency, tables
from benchmarks.contenders import THREADS, Folders
from benchmarks.exports import WEIGHTS
from benchmarks.training_contenders import prepare
from benchmarks.training_parity import PACKAGES
from utils.families.variants import Variant, get_variant
from utils.tables import markdown

DEFAULT_VARIANTS = ["convmixer_1024_20", "mixer_b16_i1k"]
QUICK_VARIANTS = ["convmixer_tiny", "mixer_tiny"]
PARTS = ("head", "all")
BATCH = 8
TITLES = {"convmixer": "ConvMixer", "mixer": "MLP-Mixer"}

# (contender, what TF_ENABLE_ONEDNN_OPTS is); the source comes first. XLA does not use TensorFlow's oneDNN.
# "xla compiled" is the same SavedModel with `jit_compile=True` around the whole step: a compiler that sees both passes
# at once, as JAX's does, may choose better than the export did what to keep of the forward one.
RUNS = {
    "convmixer": (("pytorch", None), ("onnx-tf", "1"), ("onnx-tf", "0")),
    "mixer": (("jax", None), ("xla", None), ("xla compiled", None), ("plain", "1"), ("plain", "0")),
}
TARGETS = {"convmixer": tables.Target(1.3), "mixer": tables.Target(1.1)}
LOSS_TOLERANCE = 1e-4  # of the second loss, which depends on the first step


def samples(
    names: Sequence[str],
    parts: Sequence[str],
    rounds: int,
    batch: int,
    contenders: Mapping[str, tuple[latency.Run, ...]] = RUNS,
    save: Callable[[str, Path, str], Folders] = latency.exports,
) -> Iterator[dict[str, Any]]:
    """Per variant, part and contender: a sample per round with `seconds`; the first has `first_seconds` and memory.

    contenders: by family, the source first. save: leaves what they load in a folder, with the head that is named.
    Raises RuntimeError when a contender's loss after a step is not the source's: what is timed must be the same step.
    """
    for name in names:
        variant = get_variant(name)
        with tempfile.TemporaryDirectory() as scratch:
            folders = save(name, Path(scratch), "fe")
            for part in parts:
                yield from _turns(variant, part, contenders[variant.family], folders, rounds, batch)


def _turns(
    variant: Variant, part: str, runs: tuple[latency.Run, ...], folders: Folders, rounds: int, batch: int
) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        work = {run: (prepare, run[0], variant.name, part, folders.get(run[0].split()[0]), batch) for run in runs}
        workers = latency.started(stack, f"{variant.name}, training {part}", work)
        starts = {run: worker("start") for run, worker in workers.items()}
        reference = starts[runs[0]]["loss"]
        for (contender, _), found in starts.items():
            if abs(found["loss"] - reference) > LOSS_TOLERANCE * abs(reference):
                raise RuntimeError(
                    f"{contender} on {variant.name}, {part}: the loss after a step is {found['loss']}, and the "
                    f"source's {reference}: not the same step, so not timed"
                )

        def sample(run: latency.Run, number: int, **figures: float) -> dict[str, Any]:
            facts = {"variant": variant.name, "part": part, "contender": run[0], "onednn": run[1], "batch": batch}
            return facts | {"round": number} | figures

        for number, run in latency.turns(runs, range(rounds)):
            seconds = workers[run]("time")
            first = {"first_seconds": starts[run]["first_seconds"]} if number == 0 else {}
            yield sample(run, number, seconds=seconds, **first)
        for run, worker in workers.items():
            yield sample(run, -1, peak_mb=worker("memory"))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Medians: a row for each variant, part, contender and setting of oneDNN, with the ratio to the source."""
    headings = ["variant", "trained", "by", "oneDNN", "ms a step", "images / s", "first step, s", "peak memory, MB"]
    headings += ["step / source's", "target", "met"]
    lines = []
    groups = tables.grouped(rows, "variant", "part", "contender", "onednn")
    for (name, part, *run), group in groups.items():
        family = get_variant(name).family
        source = groups[name, part, *RUNS[family][0]]
        seconds, theirs = (tables.median_of(g, "seconds") for g in (group, source))
        first, peak = (tables.median_of(group, key) for key in ("first_seconds", "peak_mb"))
        verdict = ["", "", ""] if group is source else tables.verdict(seconds / theirs, TARGETS[family])
        figures = [f"{1000 * seconds:.1f}", f"{group[0]['batch'] / seconds:.1f}", f"{first:.1f}", f"{peak:.0f}"]
        what = {"head": "head only", "all": "everything"}[part]
        lines.append([name, what, run[0], tables.SWITCH[run[1]], *figures, *verdict])
    return markdown(headings, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the table, print it."""
    quick, repeats = "the tiny variants, 3 steps", "timed steps of each (11)"
    parser = command.parser("training", __doc__, quick=quick, repeats=repeats)
    command.add_variants(parser, DEFAULT_VARIANTS)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is trained (both)")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"images in a step ({BATCH})")
    options = parser.parse_args(arguments)
    names = command.chosen(options, DEFAULT_VARIANTS, QUICK_VARIANTS)
    notes = command.notes("training", arguments, PACKAGES) | {
        "weights": WEIGHTS,
        "method": (
            f"forward, loss, gradients and SGD with momentum on {options.batch} images, {THREADS} threads, float32; "
            "one process per contender, taking turns; medians; losses compared after a step. The first step includes "
            "tracing and compilation. Peak memory is above what the imports take, from the first step on"
        ),
    }
    rounds = options.repeats or (3 if options.quick else 11)
    collected = command.shown(samples(names, options.parts, rounds, options.batch))
    for family, title in TITLES.items():
        if rows := [sample for sample in collected if get_variant(sample["variant"]).family == family]:
            command.leave(options, f"training_{family}", f"A training step of {title}", notes, table, rows)


if __name__ == "__main__":
    main()
