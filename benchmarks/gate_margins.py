"""Does the gate pass every honest checkpoint and fail every fault? `python -m benchmarks.gate_margins [VARIANT ...]`.

Each kind of checkpoint in tests/gate/checkpoints.py goes through the gate as it is, with oneDNN on and off, then with
each fault planted. Leaves `gate_margins` in assets/tables; with `--full-size`, which takes some minutes a case,
`gate_margins_full_size`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from gate.checkpoints import KINDS

from benchmarks import command
from benchmarks.processes import Worker
from utils.parity.judge import RATIO
from utils.tables import markdown

HEADINGS = (
    *("variant", "checkpoint", "head", "pixels"),
    *("honest export errs, oneDNN on", "off", "at worst in"),
    *("fault that shows least", "errs", "caught", "run"),
)


@dataclass(frozen=True)
class Case:
    """A checkpoint to judge; size None is the variant's own."""

    variant: str
    kind: str
    head: str = "classification"
    size: int | None = None


TINY = [
    *(Case(name, kind) for name in ("convmixer_tiny", "convmixer_tiny_relu", "mixer_tiny") for kind in KINDS),
    *(Case(name, "trained", "fe") for name in ("convmixer_tiny", "convmixer_tiny_relu", "mixer_tiny")),
    *(Case(name, "trained", size=64) for name in ("convmixer_tiny", "convmixer_tiny_relu")),
]
FULL = [
    *(Case("convmixer_768_32", kind) for kind in ("default", "trained", "dead")),
    *(Case("convmixer_1024_20", kind) for kind in ("default", "trained")),
    Case("convmixer_768_32", "trained", "fe", 280),
    *(Case("mixer_b16_i1k", kind) for kind in ("default", "trained", "scaled")),
    Case("mixer_l16_i1k", "trained", "fe"),
]


def largest(report: Any) -> tuple[float, str]:
    """The largest error of a `parity.Report` that is measured against a source, and of which figure.

    In tenths of what is allowed, which is how many times the source's own error it is, but for gradients where the
    allowance for sums is the larger one; infinite for what is no number.
    """
    worst = max((row for row in report.rows if row.source is not None), key=lambda row: row.severity)
    return RATIO * worst.severity, f"{worst.output} {worst.variable}".strip()


def prepare(case: Case) -> Callable[[bool], dict[str, Any]]:
    """In a process of its own: gives what judges the case, with every fault planted or with none."""
    from utils.machine.devices import use_cpu

    use_cpu()
    from gate.faults import faults_of
    from gate.subject import Subject

    from utils.families.variants import get_variant
    from utils.parity.judge import RATIO

    variant = get_variant(case.variant)
    subject = Subject(variant, KINDS[case.kind](variant, 0), case.head, case.size)

    def judge(with_faults: bool) -> dict[str, Any]:
        report = subject.report()
        ratio, where = largest(report)
        faults, slipped = {}, []
        for fault in faults_of(variant, case.head) if with_faults else []:
            found = subject.report(fault, training=False)
            # What no output shows, training does: momentum, or whatever lies before a head of zeros. (That a weight is
            # another one is always seen, bit for bit: it has no part in the figure.)
            if largest(found)[0] <= RATIO:
                found = subject.report(fault)
            faults[fault.name] = largest(found)[0]
            slipped += [fault.name] if found.passed else []
        return {"passed": report.passed, "ratio": ratio, "where": where, "faults": faults, "slipped": slipped}

    return judge


def judged(case: Case, with_faults: bool) -> dict[str, Any]:
    """One sample: the case with oneDNN on, and without; faults with it on alone, as they are far from rounding."""
    sides = {}
    for onednn in ("1", "0"):
        with Worker(f"{case}, oneDNN {onednn}", prepare, case, environment={"TF_ENABLE_ONEDNN_OPTS": onednn}) as worker:
            sides[onednn] = worker(with_faults and onednn == "1")
    worst = max(sides.values(), key=lambda side: side["ratio"])
    return {
        **asdict(case),
        "passed": all(side["passed"] for side in sides.values()),
        "ratios": {onednn: side["ratio"] for onednn, side in sides.items()},
        "where": worst["where"],
        **{key: sides["1"][key] for key in ("faults", "slipped")},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 where an honest export was refused or a fault passed."""
    parser = command.parser("gate_margins", __doc__)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="of these alone")
    parser.add_argument("--full-size", action="store_true", help="models of full size, not tiny ones")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of checkpoints")
    parser.add_argument("--without-faults", action="store_true")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    options = parser.parse_args(arguments)
    notes = command.notes("gate_margins", arguments) | {
        "weights": "made here, by kind: see tests/gate/checkpoints.py",
        "method": "the gate of the conversion notebooks, before saving; errors against float64, relative L2, as "
        "multiples of the source framework's own float32",
    }
    name, cases = ("gate_margins_full_size", FULL) if options.full_size else ("gate_margins", TINY)
    cases = [case for case in cases if case.kind in options.kinds]
    cases = [case for case in cases if case.variant in (options.variants or [case.variant])]

    with ThreadPoolExecutor(options.jobs) as pool:
        samples = command.shown(pool.map(lambda case: judged(case, not options.without_faults), cases))
    command.leave(options, name, "The gate's margins", notes, table, samples, ("variant", "kind", "head", "size"))
    return 0 if all(sample["passed"] and not sample["slipped"] for sample in samples) else 1


def table(samples: Sequence[dict[str, Any]]) -> str:
    """A row for each case, and the two margins: the most that an honest export errs, the least that a fault does."""
    rows = []
    for sample in samples:
        least = min(sample["faults"], key=sample["faults"].get, default="")
        caught = f"{len(sample['faults']) - len(sample['slipped'])} of {len(sample['faults'])}" if least else ""
        honest = [f"{sample['ratios'][onednn]:.1f} times" for onednn in ("1", "0")]
        where = sample["where"] + ("" if sample["passed"] else ": REFUSED")
        times = f"{sample['faults'][least]:,.0f} times" if least else ""
        which = sample["variant"], sample["kind"], sample["head"], str(sample["size"] or "")
        rows.append([*which, *honest, where, least, times, caught, sample["run"]])
    most = max(ratio for sample in samples for ratio in sample["ratios"].values())
    least = min((times for sample in samples for times in sample["faults"].values()), default=math.nan)
    planted = sum(len(sample["faults"]) for sample in samples)
    line = f"Honest exports err {most:.1f} times as much as their source at worst"
    line += f"; each of {planted:,} planted faults {least:,.0f} times or more." if planted else "."
    return f"{markdown(HEADINGS, rows)}\n\n{line}"


if __name__ == "__main__":
    sys.exit(main())
