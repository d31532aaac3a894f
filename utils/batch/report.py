"""What a batch leaves: a table of its conversions, and `batch/report.json`, which adds up what each conversion took."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from utils.artefact.contents import placed_names
from utils.artefact.placing import replace_text
from utils.batch.plan import Outcome
from utils.machine.cores import usable_cores
from utils.release.folder import write_release
from utils.release.index import BATCH
from utils.tables import aligned, markdown

FILE, TABLE = "report.json", "report.md"  # in BATCH


def text(outcomes: Sequence[Outcome]) -> str:
    """What became of each conversion in this run, and what is to be made and why before it."""
    rows = [("model", "state", "time", "peak memory", "tarball", "why")]
    for outcome in outcomes:
        rows.append(
            (
                outcome.name,
                outcome.state,
                f"{outcome.seconds:.0f} s" if outcome.seconds else "",
                f"{outcome.peak_mb:,.0f} MB" if outcome.peak_mb else "",
                f"{outcome.manifest['tarball']['bytes'] / 1e6:,.1f} MB" if outcome.manifest else "",
                outcome.reason.partition("\n")[0],
            )
        )
    return f"\n{aligned(rows)}"


def write(output_dir: Path, outcomes: Sequence[Outcome], run: Mapping[str, Any]) -> str:
    """Writes the release's files, `report.json` and `report.md` in `batch/`; returns the latter's text.

    run: `command`, `jobs`, `memory_mb`, `seconds` of this run. Figures of conversions that were done before are taken
    from the report that is there, if they are of the very tarball that is there now.
    """
    there = {outcome.name: outcome for outcome in outcomes if outcome.manifest}
    entries = write_release(output_dir, {name: outcome.manifest for name, outcome in there.items()})
    before = _read(output_dir / BATCH / FILE)
    conversions = {}
    for entry in (entry for entry in entries if not entry["derived_from"]):
        name = entry["name"]
        facts = {key: entry[key] for key in ("variant", "head", "operations", "weights", "family")}
        facts |= {"tarball_sha256": entry["files"][entry["file"]], "tarball_bytes": entry["bytes"]}
        facts["bytes"] = _bytes(output_dir, name)
        known = before["conversions"].get(name, {})
        if name in there and there[name].state == "converted":
            facts |= {"seconds": round(there[name].seconds, 1), "peak_mb": round(there[name].peak_mb)}
        elif known.get("tarball_sha256") == facts["tarball_sha256"]:
            facts |= {key: known[key] for key in ("seconds", "peak_mb") if key in known}
        conversions[name] = facts
    counts = {state: sum(o.state == state for o in outcomes) for state in ("converted", "failed", "was done")}
    machine = f"{usable_cores()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()}"
    this = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "machine": machine, **run, **counts}
    report = {"runs": [*before["runs"], this], "conversions": conversions}
    (output_dir / BATCH).mkdir(exist_ok=True)
    replace_text(output_dir / BATCH / FILE, json.dumps(report, indent=1) + "\n")
    replace_text(output_dir / BATCH / TABLE, table(report) + "\n")
    return table(report)


def table(report: Mapping[str, Any]) -> str:
    """Totals by family and operations, as Markdown, and the runs."""
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
        found = json.loads(path.read_text(encoding="utf-8"))
        table(found)
        return found
    except Exception:  # whatever somebody has made of it: figures of earlier runs are lost, the report is not
        return {"runs": [], "conversions": {}}


def _bytes(output_dir: Path, name: str) -> int:
    folder, *files = (output_dir / part for part in placed_names(name))
    return sum(path.stat().st_size for path in (*files, *folder.rglob("*")) if path.is_file())
