"""Converts many models, one after the other or side by side: `python -m utils.batch`, or `make release`.

Each conversion is a process of its own, with a bound on its memory. What is there and verified is not made again, so
the same command goes on where an interrupted one stopped; a conversion that fails does not stop the others. In the
output folder it leaves, beside the artefacts, what a release needs (`utils.release`), and in `batch/` a report of time,
memory and disk, and what the failed ones said.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from pathlib import Path

import psutil

from utils.artefact import placing
from utils.batch import report as batch_report
from utils.batch.plan import Outcome, is_cached, look, plan
from utils.batch.supervision import Supervised
from utils.command import positive
from utils.errors import ConversionError
from utils.families.variants import HEADS, OPERATIONS
from utils.parity.references import FOLDER_VARIABLE
from utils.release.index import BATCH

CONVERT = (sys.executable, "-m", "utils.convert")
ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 0.2  # between two looks at what runs
_SHARE = 0.9  # of the memory that is free at the start, for all conversions together


class Batch:
    """Runs conversions; `interrupt` may be called from a signal handler at any time.

    jobs: how many at a time. memory_mb: bound for each, in MB of 1,000,000 bytes. show: is told what happens.
    """

    def __init__(self, output_dir: Path, jobs: int, memory_mb: float, show: batch_report.Display) -> None:
        self.output_dir, self.jobs, self.memory_mb, self.show = output_dir, jobs, memory_mb, show
        self.interrupts = 0

    def interrupt(self) -> None:
        """Starts nothing more, and asks what is running to stop; called once more, kills it."""
        self.interrupts += 1

    def run(self, outcomes: list[Outcome]) -> None:
        """Makes what is "not started", and notes in each outcome what became of it."""
        with placing.explained(self.output_dir):
            (self.output_dir / BATCH).mkdir(parents=True, exist_ok=True)
        waiting = [outcome for outcome in outcomes if outcome.state == "not started"]
        references, lock = placing.make_folder(self.output_dir / BATCH, "references", needed_bytes=0)
        try:
            with ThreadPoolExecutor(self.jobs) as pool:
                self._run(waiting, references, pool)
        finally:
            shutil.rmtree(references, ignore_errors=True)
            lock.close()

    def _run(self, waiting: list[Outcome], references: Path, pool: Executor) -> None:
        running: dict[Future, Outcome] = {}
        often = Counter(_variants(waiting))
        try:
            while running or (waiting and not self.interrupts):
                while len(running) < self.jobs and not self.interrupts:
                    outcome = _next(waiting, running.values())
                    if outcome is None:
                        break
                    waiting.remove(outcome)
                    variant = outcome.conversion.variant.name
                    shared = references / variant if often[variant] > 1 else None
                    running[pool.submit(self._convert, outcome, shared)] = outcome
                for future in wait(running, _SECONDS, FIRST_COMPLETED).done:
                    variant = running.pop(future).conversion.variant.name
                    future.result()
                    if variant not in _variants([*waiting, *running.values()]):
                        shutil.rmtree(references / variant, ignore_errors=True)
        except BaseException:
            self.interrupts = 2  # something here went wrong: nothing is left running
            raise

    def _convert(self, outcome: Outcome, shared: Path | None) -> None:
        """Runs one conversion to its end; `shared` is where it finds, or leaves, what its variant's source computes."""
        name = outcome.conversion.name
        command = [*CONVERT, *outcome.conversion.arguments(self.output_dir), "--progress", "lines"]
        self.show.started(outcome)
        try:
            if shared:
                shared.mkdir(exist_ok=True)
            environment = {FOLDER_VARIABLE: str(shared)} if shared else {}
            child = Supervised(command, self.output_dir / BATCH / f"{name}.log", self.memory_mb, ROOT, environment)
        except OSError as error:
            outcome.state, outcome.reason = "failed", f"it could not be started: {error}"
        else:
            self._end(outcome, child, self._watch(outcome, child))
        self.show.ended(outcome)

    def _watch(self, outcome: Outcome, child: Supervised) -> int:
        """Until it has ended, with what exit status."""
        told = 0
        while (status := child.poll()) is None:
            self.show.cells(outcome, *child.cells())
            if self.interrupts > told:  # the first time politely
                (child.kill if self.interrupts > 1 else child.interrupt)()
                told = self.interrupts
            time.sleep(_SECONDS)
        return status

    def _end(self, outcome: Outcome, child: Supervised, status: int) -> None:
        outcome.seconds, outcome.peak_mb = child.seconds, child.peak_mb
        outcome.manifest, outcome.reason = look(outcome.conversion, self.output_dir)
        if status == 0 and not outcome.reason:
            outcome.state = "converted"
            child.log.unlink()
            return
        outcome.state = "interrupted" if self.interrupts else "failed"
        text = child.log.read_text(encoding="utf-8", errors="replace")
        if child.exceeded:
            outcome.reason = f"memory: {child.peak_mb:,.0f} MB were used, and --memory-mb allows {self.memory_mb:,.0f}"
        elif status:
            how = f"signal {-status}" if status < 0 else f"status {status}"
            said = text.rpartition("\nerror: ")[2].strip()
            outcome.reason = f"ended by {how}: {said[:2000]}"
        try:
            placing.clear(self.output_dir, outcome.conversion.name)
        except ConversionError as error:
            outcome.reason += f"; {error}"


def _next(waiting: list[Outcome], running: Iterable[Outcome]) -> Outcome | None:
    """The first of a variant that none is converting, else the first whose checkpoint none is about to fetch or write.

    Those of one variant one after the other: the later ones find what the source framework computed for the first.
    """
    busy = _variants(running)
    free = [outcome for outcome in waiting if outcome.conversion.variant.name not in busy]
    return next(iter(free), None) or next((outcome for outcome in waiting if is_cached(outcome.conversion)), None)


def _variants(outcomes: Iterable[Outcome]) -> list[str]:
    return [outcome.conversion.variant.name for outcome in outcomes]


@contextmanager
def _handling(interrupt: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C, SIGTERM, and the end of the terminal ask for an orderly end; a second one kills what is running.

    What is ignored stays so: under nohup a batch goes on when the terminal closes.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    handled = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in handled:
        signal.signal(number, lambda *_: interrupt())
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m utils.batch", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--variants", nargs="+", default=["all"], help="names, patterns, convmixer, mixer, all (default: all)")
    add("--heads", default="all", choices=(*HEADS, "all"), help="default: all")
    add("--operations", default="xla", choices=(*OPERATIONS, "all"), help="of Mixers (default: xla)")
    add("--checkpoint", default="official", choices=("official", "synthetic"), help="default: official")
    add("--output-dir", type=Path, default=Path("exports"), help="where everything goes (default: exports)")
    add("--seed", type=int, default=0, help="of synthetic weights and of the inputs compared (default: 0)")
    add("--formats", default="saved_model", help='"saved_model, keras, onnx" for files of Keras 3 and ONNX, too')
    add("--jobs", type=positive, default=1, help="conversions at a time (default: 1)")
    add("--memory-mb", type=positive, help="bound for each conversion (default: what is free, shared by the jobs)")
    add("--again", action="store_true", help="make also what is there and verified")
    add("--dry-run", action="store_true", help="list what would be made, and why; make nothing")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 everything is there and verified, 1 something failed or makes no sense, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    try:
        return _main(options, shlex.join(["python", "-m", "utils.batch", *arguments]))
    except ConversionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before anything was started
        print("Interrupted.", file=sys.stderr)
        return 130


def _main(options: argparse.Namespace, command: str) -> int:
    folder = options.output_dir.expanduser().absolute()
    chosen = options.variants, options.heads, options.operations, options.checkpoint, options.seed
    outcomes = [Outcome(conversion) for conversion in plan(*chosen, folder, options.formats)]
    for outcome in outcomes:
        found = ({}, "asked for again") if options.again else look(outcome.conversion, folder)
        outcome.manifest, outcome.reason = found
        outcome.state = "not started" if outcome.reason else "was done"
    if options.dry_run:
        print(batch_report.plan_text(outcomes))
        return 0
    memory_mb = options.memory_mb or _SHARE * psutil.virtual_memory().available / 1e6 / options.jobs
    started = time.monotonic()
    with closing(batch_report.Display(outcomes)) as show:
        batch = Batch(folder, options.jobs, memory_mb, show)
        with _handling(batch.interrupt):
            batch.run(outcomes)
    run = {"command": command, "jobs": options.jobs, "memory_mb": round(memory_mb)}
    try:
        report = batch_report.write(folder, outcomes, run | {"seconds": round(time.monotonic() - started, 1)})
    except ConversionError:  # what became of each is told all the same
        print(batch_report.text(outcomes))
        raise
    print(batch_report.text(outcomes, report))
    if any(outcome.state == "failed" for outcome in outcomes):
        print(f"\nWhat the failed ones said is in {folder / BATCH}.", file=sys.stderr)
    if batch.interrupts:
        print("Interrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    return 1 if any(outcome.state == "failed" for outcome in outcomes) else 0
