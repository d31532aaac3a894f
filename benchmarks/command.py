"""A benchmark's command: its options, and its tables, with where and how they were made. Nothing is typed by hand."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from utils.command import positive
from utils.families.variants import VARIANTS
from utils.files import write_text
from utils.machine.cores import usable_cores

Sample = Mapping[str, Any]

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "assets" / "tables"
_ONEDNN = {"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"}  # any of them, on Linux
PACKAGES = ("torch", "tensorflow", "onnx", "onnx-tf", "onnxruntime", "numpy")
SWITCH = {"1": "on", "0": "off", None: "n/a"}  # what TF_ENABLE_ONEDNN_OPTS is
SYNTHETIC = "synthetic where the name says so: of the official files' format and size, not their values"


def parser(benchmark: str, doc: str, quick: str = "", repeats: str = "") -> argparse.ArgumentParser:
    """With `--output-dir`, and with `--quick` and `--repeats` where their help is given.

    benchmark: the module's name in this package. doc: its docstring.
    """
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark}", description=doc.splitlines()[0])
    made.add_argument("--output-dir", type=Path, help="where the table goes (assets/tables)")
    if repeats:
        made.add_argument("--repeats", type=positive, help=repeats)
    if quick:
        made.add_argument("--quick", action="store_true", help=f"{quick}, into exports/tables")
    return made


def add_variants(made: argparse.ArgumentParser, default: str, family: str = "") -> None:
    """`--variants`, of one family or of all; default: what its help says where none is named."""
    known = sorted(name for name, variant in VARIANTS.items() if family in ("", variant.family))
    made.add_argument("--variants", nargs="+", choices=known, help=f"else {default}")


def notes(benchmark: str, arguments: Sequence[str] | None, packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Processor, cores, system, load, versions, date and command, by the words to print them under.

    arguments: of the command, None for those of this process. packages: whose versions matter to it.
    """
    one, five, _ = os.getloadavg()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "--output-dir" in words:  # somebody's own path, which says nothing of what was measured
        place = words.index("--output-dir")
        del words[place : place + 2]
    versions = [f"Python {platform.python_version()}", *(f"{package} {version(package)}" for package in packages)]
    return {
        "machine": f"{_processor()}, {usable_cores()} cores, {platform.system()}",
        "oneDNN by default": _onednn(),
        "load average before the run": f"{one:.1f} in the last minute, {five:.1f} in the last five",
        "versions": ", ".join(versions),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": shlex.join([Path(sys.executable).name, "-m", f"benchmarks.{benchmark}", *words]),
    }


def _processor() -> str:
    return _cpuinfo("model name") or platform.machine()


def _onednn() -> str:
    """Whether TensorFlow has it "on" where TF_ENABLE_ONEDNN_OPTS does not say: as its `IsMKLEnabled` has it."""
    return "on" if _ONEDNN & set(_cpuinfo("flags").split()) else "off"


def _cpuinfo(key: str) -> str:
    """Of the first core, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((" ".join(line.partition(":")[2].split()) for line in lines if line.startswith(key)), "")


def shown(samples: Iterable[Sample]) -> list[Sample]:
    """All samples, each printed as it comes, by its labels and figures: a full run takes many minutes."""
    collected = []
    for sample in samples:
        told = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in sample.items()}
        print(", ".join(f"{key} {value}" for key, value in told.items() if not isinstance(value, dict)), flush=True)
        collected.append(sample)
    return collected


def grouped(samples: Iterable[Sample], *keys: str) -> dict[tuple, list[Sample]]:
    """The samples by these values of theirs, in the order in which each first comes."""
    groups: dict[tuple, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(tuple(sample[key] for key in keys), []).append(sample)
    return groups


def median_of(samples: Iterable[Sample], key: str) -> float:
    """Of those that have it."""
    return median(sample[key] for sample in samples if key in sample)


def leave(
    options: argparse.Namespace,
    name: str,
    title: str,
    notes: Mapping[str, str],
    table: Callable[[Sequence[Any]], str],
    samples: Sequence[Any],
    keys: Sequence[str] = (),
) -> None:
    """Writes `name`.md, the table under its title and notes, and `name`.json, all samples; prints the table.

    Args:
        options: the command's, which say in which folder.
        name: of both files.
        title: of the page.
        notes: what `notes` gives, and the method.
        table: makes Markdown of samples.
        samples: what was measured.
        keys: what tells rows apart, where those of earlier runs stay; each then has its `machine`, and a `run`: where
            and when it was made.
    """
    folder = options.output_dir or (Path("exports", "tables") if getattr(options, "quick", False) else TABLES)
    path = folder / f"{name}.json"
    if keys:
        run = _run(notes)
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"samples": [], "notes": {}}
        told = [sample for sample in before["samples"] if all(key in sample for key in (*keys, "run"))]
        made = [sample | {"run": run, "machine": notes["machine"]} for sample in samples]
        groups = grouped(told, *keys) | grouped(made, *keys)
        samples = [sample for group in groups.values() for sample in group]
        notes = dict(notes) | _earlier(before["notes"], {sample["run"] for sample in samples} - {run})
    facts = [f"- {key}: {value}" for key, value in notes.items()]
    lines = [f"# {title}", "", "Written by the command below, not by hand.", "", *facts, "", table(samples), ""]
    # A sample a line: readable, and a change of one is a change of one line.
    rounded = ",\n".join(json.dumps(_rounded(sample)) for sample in samples)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, f'{{"notes": {json.dumps(notes, indent=1)},\n"samples": [\n{rounded}\n]}}\n')
    write_text(path.with_suffix(".md"), "\n".join(lines))
    print(f"\n{table(samples)}\n\n{path.with_suffix('.md')}", flush=True)


def _run(notes: Mapping[str, str]) -> str:
    return f"{notes['date']}, {notes['machine']}, oneDNN by default {notes['oneDNN by default']}"


def _earlier(before: Mapping[str, str], runs: Container[str]) -> dict[str, str]:
    """How those `runs` were made whose rows stay, as far as the notes `before` tell."""
    found = dict(before)
    if "oneDNN by default" in before and _run(before) in runs:
        found[_run(before)] = f"{before['command']}; {before['versions']}"
    return {run: text for run, text in found.items() if run in runs}


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value
