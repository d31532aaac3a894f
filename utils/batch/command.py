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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from tqdm import tqdm

from utils.artefact import placing
from utils.batch import report as batch_report
from utils.batch.plan import Outcome, look, plan
from utils.batch.supervision import Supervised
from utils.command import positive, run_command
from utils.errors import ConversionError
from utils.families.variants import HEADS, OPERATIONS
from utils.files import user_path
from utils.parity.references import FOLDER_VARIABLE
from utils.release.index import BATCH
from utils.settings import Settings
from utils.tables import aligned

CONVERT = (sys.executable, "-m", "utils.convert")
_PASSED_ON = ("variant", "head", "checkpoint", "output_dir", "seed", "operations", "formats")  # options of it
_SECONDS = 0.2  # between two looks at what runs
_SHARE = 0.9  # of the memory that is free at the start, for all conversions together


def run(outcomes: Sequence[Outcome], folder: Path, jobs: int, memory_mb: float, signals: Sequence[int]) -> None:
    """Makes what is "not started", and notes in each outcome what became of it.

    Args:
        outcomes: all conversions.
        folder: where their artefacts go.
        jobs: how many run at a time.
        memory_mb: bound for each, in MB of 1,000,000 bytes.
        signals: that have arrived; may grow at any time. After one nothing more is started, and what runs is asked to
            stop; after two it is killed.

    Raises:
        PackagingError: where nothing can be written in `folder`.
    """
    with placing.explained(folder):
        (folder / BATCH).mkdir(parents=True, exist_ok=True)
    references, lock = placing.make_folder(folder / BATCH, "references", needed_bytes=0)
    done = sum(outcome.state == "was done" for outcome in outcomes)
    bar = tqdm(total=len(outcomes), initial=done, desc="all", unit="model", disable=None)  # None: not in a log
    running: dict[Outcome, Supervised] = {}
    try:
        while True:
            while len(running) < jobs and not signals and (outcome := _next(outcomes)):
                if bar.disable:
                    print(f"{outcome.name} ...", file=sys.stderr, flush=True)
                if child := _started(outcome, folder, references, memory_mb):
                    running[outcome] = child
            for outcome, child in [*running.items()]:
                if len(signals) > 1:
                    child.kill()
                elif signals:
                    child.interrupt()
                if (status := child.poll()) is not None:
                    del running[outcome]
                    _end(outcome, child, status, interrupted=bool(signals))
                    bar.update()
                    facts = f"{outcome.seconds:.0f} s, {outcome.peak_mb:,.0f} MB {outcome.reason}"
                    tqdm.write(f"{outcome.name} {outcome.state} after {facts}", file=sys.stderr)
                    if not any(each.variant == outcome.variant and each.is_open for each in outcomes):
                        shutil.rmtree(references / outcome.variant, ignore_errors=True)
            if not running and (signals or not _next(outcomes)):
                return
            bar.set_postfix_str(", ".join(f"{each.name} {child.progress}" for each, child in running.items()))
            time.sleep(_SECONDS)
    finally:
        for child in running.values():  # something here went wrong: nothing is left running
            child.kill()
        bar.close()
        shutil.rmtree(references, ignore_errors=True)
        lock.close()


def _next(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The first that may start now, if any.

    Of a variant one goes ahead alone: it fetches the checkpoint and leaves what the source computes for the others.
    """
    busy = {outcome.variant for outcome in outcomes if outcome.state == "running"}
    ahead = {outcome.variant for outcome in outcomes if outcome.state == "converted"}
    waiting = [outcome for outcome in outcomes if outcome.state == "not started"]
    return next((outcome for outcome in waiting if outcome.variant in ahead or outcome.variant not in busy), None)


def _started(outcome: Outcome, folder: Path, references: Path, memory_mb: float) -> Supervised | None:
    words = [(f"--{key.replace('_', '-')}", str(getattr(outcome.settings, key))) for key in _PASSED_ON]
    command = [*CONVERT, *(word for pair in words for word in pair), "--progress", "lines"]
    shared = references / outcome.variant  # what the source computes for one head serves the other one
    try:
        shared.mkdir(exist_ok=True)
        log = folder / BATCH / f"{outcome.name}.log"
        child = Supervised(command, log, memory_mb, {FOLDER_VARIABLE: str(shared)})
    except OSError as error:
        outcome.state, outcome.reason = "failed", f"it could not be started: {error}"
        return None
    outcome.state = "running"
    return child


def _end(outcome: Outcome, child: Supervised, status: int, interrupted: bool) -> None:
    outcome.seconds, outcome.peak_mb = child.seconds, child.peak_mb
    outcome.manifest, outcome.reason = look(outcome.settings)
    if status == 0 and not outcome.reason:
        outcome.state = "converted"
        child.log.unlink()
        return
    outcome.state = "interrupted" if interrupted else "failed"
    if child.exceeded:
        outcome.reason = f"memory: {child.peak_mb:,.0f} MB were used, and --memory-mb allows {child.memory_mb:,.0f}"
    elif status:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        said = child.log.read_text(encoding="utf-8", errors="replace").rpartition("\nerror: ")[2].strip()
        outcome.reason = f"ended by {how}: {said[:2000]}"
    try:
        placing.clear(Path(outcome.settings.output_dir), outcome.name)
    except ConversionError as error:
        outcome.reason += f"; {error}"


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """The signals that arrive in the block: Ctrl-C, SIGTERM, and the end of the terminal.

    What is ignored stays so: under nohup a batch goes on when the terminal closes.
    """
    found: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    handled = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in handled:
        signal.signal(number, lambda number, _: found.append(number))
    try:
        yield found
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
    add("--seed", type=int, default=Settings.seed, help="of synthetic weights and of the inputs compared (default: 0)")
    add("--formats", default=Settings.formats, help='"saved_model, keras, onnx" for files of Keras 3 and ONNX, too')
    add("--jobs", type=positive, default=1, help="conversions at a time (default: 1)")
    add("--memory-mb", type=positive, help="bound for each conversion (default: what is free, shared by the jobs)")
    add("--again", action="store_true", help="make also what is there and verified")
    add("--dry-run", action="store_true", help="list what would be made, and why; make nothing")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 everything is there and verified, 1 something failed or makes no sense, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "utils.batch", *arguments])
    return run_command(lambda: _main(options, command), "Interrupted. The same command goes on from here.")


def _main(options: argparse.Namespace, command: str) -> str:
    folder = user_path(options.output_dir).absolute()
    common = {"checkpoint": options.checkpoint, "seed": options.seed, "output_dir": str(folder)}
    outcomes = plan(options.variants, options.heads, options.operations, options.formats, **common)
    for outcome in outcomes:
        outcome.manifest, outcome.reason = ({}, "asked for again") if options.again else look(outcome.settings)
        if not outcome.reason:
            outcome.state = "was done"
    if options.dry_run:
        return batch_report.text(outcomes)
    memory_mb = options.memory_mb or _SHARE * psutil.virtual_memory().available / 1e6 / options.jobs
    started = time.monotonic()
    with _noted_signals() as signals:
        run(outcomes, folder, options.jobs, memory_mb, signals)
    this = {"command": command, "seconds": round(time.monotonic() - started, 1)}
    this |= {"jobs": options.jobs, "memory_mb": round(memory_mb)}
    print(batch_report.text(outcomes))  # before the report, which may be impossible to write
    batch_report.write(folder, outcomes, this)
    if signals:
        raise KeyboardInterrupt
    if failed := [outcome.name for outcome in outcomes if outcome.state == "failed"]:
        raise ConversionError(f"{', '.join(failed)} failed. What the conversions said is in {folder / BATCH}.")
    where = shlex.quote(str(options.output_dir))
    publish = "synthetic weights are not published"
    if options.checkpoint == "official":
        publish = f"python -m utils.publish huggingface {where}   # shows what would be sent"
    rows = [
        ("look at", str(folder / "models.html")),
        ("verify", f"python -m utils.verify {where}"),
        ("publish", publish),
    ]
    return f"\n{aligned(rows)}"
