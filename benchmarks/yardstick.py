"""Does the gate pass every honest checkpoint and fail every fault? `python -m benchmarks.yardstick [VARIANT ...]`.

Each kind of checkpoint in `benchmarks.honest` goes through the gate as it is, then with each fault planted. Leaves
`yardstick` in assets/tables. Full-size variants take an hour each on two cores; `--kinds` and `--without-faults` take
less.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine, tables
from utils.devices import use_cpu
from utils.parity import Report
from utils.variants import get_variant

TABLES = Path(__file__).resolve().parent.parent / "assets" / "tables"
HEADINGS = (
    "variant",
    "checkpoint",
    "honest: times the source's error",
    "in",
    "fault that shows least",
    "times",
    "caught",
)


def largest(report: Report) -> tuple[float, str]:
    """The largest ratio of a report, and of which figure; infinite for what is no number."""
    rows = [row for row in report.rows if row.ratio is not None]
    ratio = lambda row: math.inf if math.isnan(row.ratio) else row.ratio  # noqa: E731
    worst = max(rows, key=ratio)
    return ratio(worst), f"{worst.output} {worst.variable}".strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 where an honest export was refused or a fault passed."""
    from benchmarks.honest import KINDS

    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.yardstick", description=__doc__.splitlines()[0])
    parser.add_argument("variants", nargs="*", default=["convmixer_tiny", "convmixer_tiny_relu"], metavar="VARIANT")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of checkpoints")
    parser.add_argument("--without-faults", action="store_true")
    parser.add_argument("--output-dir", type=Path, default=TABLES)
    options = parser.parse_args(arguments)
    use_cpu()
    from benchmarks.faults import faults_of
    from benchmarks.gate import Subject

    notes = machine.description("yardstick", arguments) | {
        "weights": "made here, by kind: see benchmarks/honest.py",
        "method": "the gate of the conversion notebooks, before saving; errors against float64, relative L2",
    }
    samples = []
    for name in options.variants:
        for kind in options.kinds:
            subject = Subject(get_variant(name), KINDS[kind](get_variant(name), 0))
            report = subject.report()
            ratio, where = largest(report)
            sample = {"variant": name, "kind": kind, "passed": report.passed, "ratio": ratio, "where": where}
            faults = [] if options.without_faults else faults_of(subject.variant)
            found = [(largest(report)[0], fault.name, report.passed) for fault in faults
                     for report in [subject.report(fault)]]  # fmt: skip
            sample["faults"] = {fault: times for times, fault, _ in found}
            sample["slipped"] = [fault for _, fault, passed in found if passed]
            samples.append(sample)
            print({key: value for key, value in sample.items() if key != "faults"}, flush=True)
    path = tables.write(options.output_dir, "yardstick", "The gate's margins", notes, _table(samples), samples)
    print(f"{_table(samples)}\n\n{path}")
    return 0 if all(sample["passed"] and not sample["slipped"] for sample in samples) else 1


def _table(samples: Sequence[dict]) -> str:
    rows = []
    for sample in samples:
        least = min(sample["faults"], key=sample["faults"].get, default="")
        caught = f"{len(sample['faults']) - len(sample['slipped'])} of {len(sample['faults'])}"
        times = f"{sample['faults'][least]:,.0f}" if least else ""
        honest = f"{sample['ratio']:.1f}{'' if sample['passed'] else ' REFUSED'}"
        rows.append([sample["variant"], sample["kind"], honest, sample["where"], least, times, caught])
    return tables.markdown(HEADINGS, rows)


if __name__ == "__main__":
    sys.exit(main())
