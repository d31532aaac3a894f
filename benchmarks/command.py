"""A benchmark's command: its options, what its tables must say of where and how they were made, and leaving them."""

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
from typing import Any

from benchmarks import tables
from utils.families.variants import VARIANTS
from utils.machine.cores import usable_cores

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "assets" / "tables"
_ONEDNN = {"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"}  # any of them, on Linux
PACKAGES = ("torch", "tensorflow", "onnx", "onnx-tf", "onnxruntime", "numpy")
SYNTHETIC = "synthetic where the name says so: of the official files' format and size, not their values"


def parser(benchmark: str, doc: str, quick: str = "", repeats: str = "") -> argparse.ArgumentParser:
    """With `--output-dir`, and with `--quick` and `--repeats` where their help is given.

    benchmark: the module's name in this package. doc: its docstring.
    """
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark}", description=doc.splitlines()[0])
    made.add_argument("--output-dir", type=Path, help="where the table goes (assets/tables)")
    if repeats:
        made.add_argument("--repeats", type=_positive, help=repeats)
    if quick:
        made.add_argument("--quick", action="store_true", help=f"{quick}, into exports/tables")
    return made


def add_variants(made: argparse.ArgumentParser, default: Sequence[str], family: str = "") -> None:
    """`--variants`, of one family or of all; `chosen` says which it shall be where none is named."""
    known = sorted(name for name, variant in VARIANTS.items() if family in ("", variant.family))
    made.add_argument("--variants", nargs="+", choices=known, help=f"else {', '.join(default)}")


def chosen(options: argparse.Namespace, default: Sequence[str], quick: Sequence[str]) -> Sequence[str]:
    """The variants that were named, else those of a quick run or the default ones."""
    return options.variants or (quick if options.quick else default)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


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


def shown(samples: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """All samples, each told as it comes, by its labels and figures: a full run takes many minutes."""
    collected = []
    for sample in samples:
        told = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in sample.items()}
        print(", ".join(f"{key} {value}" for key, value in told.items() if not isinstance(value, dict)), flush=True)
        collected.append(sample)
    return collected


def leave(
    options: argparse.Namespace,
    name: str,
    title: str,
    notes: Mapping[str, str],
    table: Callable[[Sequence[Any]], str],
    samples: Sequence[Any],
    keys: Sequence[str] = (),
) -> None:
    """Writes `name`.md and `name`.json where the options say, and prints the table.

    keys: what tells rows apart, where those of earlier runs stay; each then has its `machine`, and a `run`: where and
        when it was made.
    """
    folder = options.output_dir or (Path("exports", "tables") if getattr(options, "quick", False) else TABLES)
    if keys:
        run, path = _run(notes), folder / f"{name}.json"
        merged = tables.merged(path, [sample | {"run": run, "machine": notes["machine"]} for sample in samples], *keys)
        samples = [sample for sample in merged if "run" in sample]  # before there were runs, rows told of none
        notes = dict(notes) | _earlier(path, {sample.get("run") for sample in samples} - {run})
    path = tables.write(folder, name, title, notes, table(samples), samples)
    print(f"\n{table(samples)}\n\n{path}", flush=True)


def _run(notes: Mapping[str, str]) -> str:
    return f"{notes['date']}, {notes['machine']}, oneDNN by default {notes['oneDNN by default']}"


def _earlier(path: Path, runs: Container[str]) -> dict[str, str]:
    """How those `runs` were made whose rows stay, as far as the table that the .json at `path` is of tells."""
    before = json.loads(path.read_text(encoding="utf-8"))["notes"] if path.is_file() else {}
    if "oneDNN by default" in before and _run(before) in runs:
        before[_run(before)] = f"{before['command']}; {before['versions']}"
    return {run: text for run, text in before.items() if run in runs}
