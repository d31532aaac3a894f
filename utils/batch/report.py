"""What a batch shows and leaves: bars or lines while it runs; a table of its conversions, and `batch/report.json`.

The latter holds what each conversion took; runs that go on add to it.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from tqdm import tqdm

from utils.artefact.contents import placed_names
from utils.artefact.placing import replace_text
from utils.machine.cores import usable_cores
from utils.release.folder import write_release
from utils.release.index import BATCH
from utils.tables import aligned, markdown

if TYPE_CHECKING:
    from utils.batch.plan import Outcome

FILE, TABLE = "report.json", "report.md"  # in BATCH
Report = Mapping[str, Any]


class Display:
    """A bar of all models, and below it one of cells for each that runs; in a log, a line where one starts instead."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.total, self.ends = sum(outcome.state == "not started" for outcome in outcomes), 0
        self._bars: dict[str, tqdm] = {}
        done = len(outcomes) - self.total
        self._all = tqdm(total=len(outcomes), initial=done, desc="all", unit="model", disable=None)  # None: in a log

    def started(self, outcome: Outcome) -> None:
        """A conversion begins."""
        name = outcome.conversion.name
        self._bars[name] = tqdm(desc=name, unit="cell", leave=False, disable=None)
        if self._all.disable:
            tqdm.write(f"{name} ...", file=sys.stderr)

    def cells(self, outcome: Outcome, done: int, total: int) -> None:
        """`done` of `total` cells of its notebook are through."""
        bar = self._bars[outcome.conversion.name]
        bar.total, bar.n = total or None, done
        bar.refresh()

    def ended(self, outcome: Outcome) -> None:
        """It is over: `outcome` says how."""
        self._bars.pop(outcome.conversion.name).close()
        self._all.update()
        self.ends += 1
        reason = f": {outcome.reason.splitlines()[0]}" if outcome.reason else ""
        tqdm.write(
            f"[{self.ends}/{self.total}] {outcome.conversion.name} {outcome.state} after {outcome.seconds:.0f} s, "
            f"{outcome.peak_mb:,.0f} MB{reason}",
            file=sys.stderr,
        )

    def close(self) -> None:
        """Leaves the bar of all models as it is."""
        self._all.close()


def plan_text(outcomes: Sequence[Outcome]) -> str:
    """What would be made and why, a line for each conversion."""
    lines = aligned([(outcome.conversion.name, outcome.reason or "done and verified") for outcome in outcomes])
    todo = sum(bool(outcome.reason) for outcome in outcomes)
    return "\n".join([lines, "", f"{todo} of {len(outcomes)} to be made"])


def write(output_dir: Path, outcomes: Sequence[Outcome], run: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the release's files, `report.json` and `report.md` in `batch/`; returns the report.

    run: `command`, `jobs`, `memory_mb`, `seconds` of this run. Figures of conversions that were done before are taken
    from the report that is there, if they are of the very tarball that is there now.
    """
    there = {o.conversion.name: o for o in outcomes if o.state in ("was done", "converted")}
    entries = write_release(output_dir, {name: outcome.manifest for name, outcome in there.items()})
    before = _read(output_dir / BATCH / FILE)
    (output_dir / BATCH).mkdir(exist_ok=True)
    conversions = {}
    for entry in (entry for entry in entries if not entry["derived_from"]):
        name = entry["name"]
        facts = {"tarball_sha256": entry["files"][f"{name}.tar.gz"], "family": entry["family"]}
        facts |= {key: entry[key] for key in ("variant", "head", "operations", "weights")}
        facts |= {"tarball_bytes": entry["bytes"], "bytes": _bytes(output_dir, name)}
        known = before["conversions"].get(name, {})
        if name in there and there[name].state == "converted":
            outcome = there[name]
            facts |= {"seconds": round(outcome.seconds, 1), "peak_mb": round(outcome.peak_mb)}
        elif known.get("tarball_sha256") == facts["tarball_sha256"]:
            facts |= {key: known[key] for key in ("seconds", "peak_mb") if key in known}
        conversions[name] = facts
    counts = {state: sum(o.state == state for o in outcomes) for state in ("converted", "failed", "was done")}
    this = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "machine": _machine(), **run, **counts}
    report = {"runs": [*before["runs"], this], "conversions": conversions}
    replace_text(output_dir / BATCH / FILE, json.dumps(report, indent=1) + "\n")
    replace_text(output_dir / BATCH / TABLE, table(report) + "\n")
    return report


def text(outcomes: Sequence[Outcome], report: Report | None = None) -> str:
    """The end of a run: what became of each conversion, then totals if there is a report."""
    known = report["conversions"] if report else {}
    rows = [("model", "state", "time", "peak memory", "tarball", "why")]
    for outcome in outcomes:
        facts = known.get(outcome.conversion.name, {}) if outcome.state in ("was done", "converted") else {}
        figures = {"seconds": outcome.seconds, "peak_mb": outcome.peak_mb} | facts
        rows.append(
            (
                outcome.conversion.name,
                outcome.state,
                f"{figures['seconds']:.0f} s" if figures["seconds"] else "",
                f"{figures['peak_mb']:,.0f} MB" if figures["peak_mb"] else "",
                f"{facts['tarball_bytes'] / 1e6:,.1f} MB" if facts else "",
                (outcome.reason.splitlines() or [""])[0] if outcome.state in ("failed", "interrupted") else "",
            )
        )
    return "\n".join(["", aligned(rows), *(["", table(report)] if report else [])])


def table(report: Report) -> str:
    """Totals by family and operations, as Markdown."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for facts in report["conversions"].values():
        kind = f"{facts['family']}, {facts['operations']}" if facts["operations"] else facts["family"]
        groups.setdefault(kind, []).append(facts)
    if len(groups) > 1:
        groups["all"] = list(report["conversions"].values())
    headings = ("conversions", "number", "time", "longest", "peak memory", "tarballs", "on disk")
    rows = []
    for kind, group in groups.items():
        measured = [facts for facts in group if "seconds" in facts]
        seconds = [facts["seconds"] for facts in measured]
        rows.append(
            (
                kind,
                str(len(group)) + (f" ({len(measured)} measured)" if len(measured) < len(group) else ""),
                f"{sum(seconds) / 60:.1f} min",
                f"{max(seconds, default=0):.0f} s",
                f"{max((facts['peak_mb'] for facts in measured), default=0):,.0f} MB",
                f"{sum(facts['tarball_bytes'] for facts in group) / 1e9:.2f} GB",
                f"{sum(facts['bytes'] for facts in group) / 1e9:.2f} GB",
            )
        )
    runs = [
        f"- {run['date']}: `{run['command']}`: {run['converted']} converted, {run['failed']} failed, "
        f"{run['was done']} done before, in {run['seconds'] / 60:.1f} min on {run['machine']}"
        for run in report["runs"]
    ]
    return "\n".join([markdown(headings, rows), "", *runs])


def _read(path: Path) -> dict[str, Any]:
    """The report of earlier runs; an empty one where there is none, or none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"runs": [], "conversions": {}}


def _bytes(output_dir: Path, name: str) -> int:
    folder, *files = (output_dir / part for part in placed_names(name))
    return sum(path.stat().st_size for path in (*files, *folder.rglob("*")) if path.is_file())


def _machine() -> str:
    return f"{usable_cores()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()}"
