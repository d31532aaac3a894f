"""Does the test suite notice what breaks a promise? `python -m benchmarks.mutants [NAME ...]`, or `make mutants`.

`mutants.toml` lists faults, each with the promise that it breaks. One after the other is planted in a copy of the
checkout, as it lies there, committed or not, and the tests beside it run until one fails: the fast ones, then the slow
ones. In the end those that failed run once more without any fault, and must pass: a fault is
caught only by a test that tells right from wrong. One that no test notices has survived. All else is a mistake in the
list: tests that end with another status (2 to 5, such as for none found), past the time limit, or while they are
collected (what cannot be imported is no subtle fault).

Leaves `mutants` in assets/tables where all were planted; of some of them, their rows in the table of `--output-dir`.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import command, tables
from utils.tables import markdown

ROOT = command.ROOT
LIST = Path(__file__).with_suffix(".toml")
CAUGHT, SURVIVED = "caught", "SURVIVED"
_NO_SOURCES = ("tests/", "benchmarks/", "assets/")  # folders in which no fault is planted
_PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")


@dataclass(frozen=True)
class Mutant:
    """A row of the list. find: what stands exactly once in the sources; replace: what is put there.

    promise: what a user was told, which the fault breaks. tests: files or folders of which one test must fail.
    """

    name: str
    promise: str
    find: str
    replace: str
    tests: Sequence[str]


def read_list(path: Path) -> list[Mutant]:
    """The list's rows. ValueError for two of one name, and for a replacement that changes nothing."""
    rows = [Mutant(**row) for row in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]]
    counts = Counter(row.name for row in rows)
    if wrong := [row.name for row in rows if counts[row.name] > 1 or row.find == row.replace]:
        raise ValueError(f"{path.name}: there twice, or changing nothing: {', '.join(wrong)}.")
    return rows


def checkout(root: Path) -> list[str]:
    """Paths of the files that are in git, or will be when all is added; as they lie there."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return sorted({name for name in done.stdout.split("\0") if (root / name).is_file()})


def sources(root: Path) -> dict[str, str]:
    """The text of each file in which faults are planted, by its path."""
    names = [name for name in checkout(root) if not name.startswith(_NO_SOURCES)]
    return {name: (root / name).read_text(encoding="utf-8", errors="replace") for name in names}


def place_of(mutant: Mutant, texts: Mapping[str, str]) -> str:
    """The one file that has the snippet once: wherever it was moved. ValueError where there is none, or more."""
    found = {name: count for name, text in texts.items() if (count := text.count(mutant.find))}
    if sum(found.values()) != 1:
        where = ", ".join(f"{name} ({count})" for name, count in found.items()) or "no file"
        raise ValueError(f"{mutant.name}: expected once, and found in {where}: {mutant.find!r}")
    return next(iter(found))


class Copy:
    """A copy of the checkout, in which tests run."""

    def __init__(self, root: Path, folder: Path, limit: float) -> None:
        self.folder, self.limit = folder, limit
        for name in checkout(root):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
        subprocess.run(["git", "init", "-q", str(folder)], check=True)  # some tests ask git for its files

    @contextmanager
    def planted(self, mutant: Mutant, name: str) -> Iterator[None]:
        """Inside, the file has the fault."""
        path = self.folder / name
        before = path.read_text(encoding="utf-8")
        path.write_text(before.replace(mutant.find, mutant.replace), encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(before, encoding="utf-8")

    def run(self, *arguments: str) -> tuple[int | None, str]:
        """Pytest's exit status, None past the time limit, and what it printed."""
        # The copy's modules are found everywhere, in notebooks' kernels too. No bytecode: its age is told in seconds.
        own = {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": ""}
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:  # a pipe, children may keep open
            settings = {"cwd": self.folder, "env": os.environ | own, "stdout": log, "stderr": subprocess.STDOUT}
            with suppress(subprocess.TimeoutExpired):
                done = subprocess.run([*_PYTEST, *arguments], timeout=self.limit, check=False, **settings)
                log.seek(0)
                return done.returncode, log.read()
        return None, ""


def judged(mutant: Mutant, name: str, copy: Copy) -> dict[str, Any]:
    """One sample: verdict, the test that noticed the fault in file `name`, and seconds."""
    started = time.monotonic()
    with copy.planted(mutant, name):
        status, text = copy.run("-x", "-m", "not slow", *mutant.tests)
        if status in (0, 5):  # no fast one noticed, or there is none
            slow, slow_text = copy.run("-x", "-m", "slow", *mutant.tests)
            status, text = (slow, slow_text) if slow != 5 else (status, text)
    test = next(iter(failed(text)), "")
    verdict = {None: f"not done in {copy.limit:.0f} s", 0: SURVIVED, 1: CAUGHT if "::" in test else None}.get(status)
    verdict = verdict or f"pytest ended with {status}: {' '.join(text.splitlines()[-1:])}"
    facts = {"name": mutant.name, "promise": mutant.promise, "file": name, "verdict": verdict, "test": test}
    return facts | {"seconds": round(time.monotonic() - started, 1)}


def failed(text: str) -> list[str]:
    """The tests, or files of them, that pytest's summary tells of."""
    return re.findall(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", text, re.MULTILINE)


def judge(mutants: Sequence[Mutant], root: Path, jobs: int = 1, limit: float = 300) -> list[dict[str, Any]]:
    """A sample for each mutant, in order; prints each as it ends. jobs: how many at a time, each in a copy."""
    texts = sources(root)
    places = [place_of(mutant, texts) for mutant in mutants]
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch, ThreadPoolExecutor(jobs) as pool:
        free: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for index in range(jobs):
            free.put(Copy(root, Path(scratch, str(index)), limit))

        def shown(mutant: Mutant, name: str) -> dict[str, Any]:
            copy = free.get()
            try:
                sample = judged(mutant, name, copy)
            finally:
                free.put(copy)
            print(f"{sample['seconds']:6.1f} s  {mutant.name}: {sample['verdict']}  {sample['test']}", flush=True)
            return sample

        samples = list(pool.map(shown, mutants, places))
        copy = free.get()
        copy.limit *= len(mutants)
        noticed = sorted({sample["test"] for sample in samples if sample["verdict"] == CAUGHT})
        status, text = copy.run(*noticed) if noticed else (0, "")
    wrong = failed(text) if status in (0, 1) else noticed  # what fails without any fault has noticed none
    return [s | {"verdict": f"{s['test']} fails without it, too"} if s["test"] in wrong else s for s in samples]


def table(samples: Sequence[Mapping[str, Any]]) -> str:
    """A row for each mutant, and how many were caught."""
    caught = [sample["verdict"] == CAUGHT for sample in samples]
    ends = [f"`{s['test']}`" if good else s["verdict"] for s, good in zip(samples, caught, strict=True)]
    rows = [(s["promise"], f"`{s['name']}`", f"`{s['file']}`", end) for s, end in zip(samples, ends, strict=True)]
    headings = ("promise", "fault", "in", "caught by")
    return f"{markdown(headings, rows)}\n\n{sum(caught)} of {len(samples)} faults caught."


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 where a fault survived, or the list is wrong."""
    parser = command.parser("mutants", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of these alone")
    parser.add_argument("--list", action="store_true", help="print them and where they go; plant none")
    parser.add_argument("--jobs", type=int, default=1, help="at a time, each in a copy of the checkout")
    parser.add_argument("--limit", type=float, default=300, help="seconds that the tests of one may take")
    options = parser.parse_args(arguments)
    known = {mutant.name: mutant for mutant in read_list(LIST)}
    if unknown := set(options.names) - set(known):
        parser.error(f"{LIST.name} has no {', '.join(sorted(unknown))}")
    mutants = [known[name] for name in options.names or known]
    if options.list:
        texts = sources(ROOT)
        print(*(f"{mutant.name}: {place_of(mutant, texts)}: {mutant.promise}" for mutant in mutants), sep="\n")
        return 0
    notes = command.notes("mutants", arguments, ("pytest", "tensorflow", "torch", "jax"))
    samples = judge(mutants, ROOT, options.jobs, options.limit)
    print(f"\n{table(samples)}")
    if folder := options.output_dir or (None if options.names else command.TABLES):
        rows = tables.merged(folder / "mutants.json", samples, "name")
        rows = sorted((row for row in rows if row["name"] in known), key=lambda row: list(known).index(row["name"]))
        if options.names:
            notes |= _others(folder / "mutants.json")
        tables.write(folder, "mutants", "Planted faults", notes, table(rows), rows)
    return 0 if all(sample["verdict"] == CAUGHT for sample in samples) else 1


def _others(path: Path) -> dict[str, str]:
    """Where the rows come from that were there before: the last run of all faults, as the .json at `path` tells."""
    before = json.loads(path.read_text(encoding="utf-8"))["notes"] if path.is_file() else {}
    key = "other rows"
    return {key: before.get(key) or f"{before['date']}, {before['command']}"} if before else {}


if __name__ == "__main__":
    sys.exit(main())
