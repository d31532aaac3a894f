"""Executes a notebook by papermill, all or nothing, with errors and interrupts as a command wants them."""

from __future__ import annotations

import io
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils import errors
from utils.errors import ConversionError, ParameterError
from utils.files import written_whole


def require_parameters(notebook: Path, names: Iterable[str]) -> None:
    """Raises ParameterError for a parameter that the notebook lacks: papermill only warns of it, and runs.

    Raises ConversionError for a notebook that is not there.
    """
    import papermill

    if not notebook.is_file():
        raise ConversionError(f"{notebook} is not there: run this from a whole checkout of the repository.")
    known = papermill.inspect_notebook(str(notebook))
    if unknown := sorted(set(names) - set(known)):
        raise ParameterError(f"{notebook.name} has no parameter {', '.join(unknown)}. It has: {', '.join(known)}.")


class _CellLines(io.TextIOBase):
    """Where papermill's progress bar may write, so that a program can read it: a line on stdout for each cell."""

    FORMAT = "cell {n_fmt} of {total_fmt}"

    def write(self, text: str) -> int:
        if bar := text.strip():
            print(bar, flush=True)
        return len(text)


@contextmanager
def executed(notebook: Path, parameters: Mapping[str, Any], progress: str = "bar") -> Iterator[Path]:
    """Yields the executed notebook, in a temporary folder kept only after an error.

    It runs in the notebook's own folder. progress: "bar", on stderr, for people; "lines", `cell 3 of 25` on stdout
    after each cell, for programs. Raises ConversionError for whatever stopped it, KeyboardInterrupt if it was
    interrupted: its cell is interrupted too, and has seconds to clean up before its kernel is killed.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    lines = {"file": _CellLines(), "bar_format": _CellLines.FORMAT, "mininterval": 0}
    folder = Path(tempfile.mkdtemp(prefix="conversion-"))
    written = folder / notebook.name
    keep = f"\nThe notebook as far as it got: {written}"
    try:
        papermill.execute_notebook(
            str(notebook),
            str(written),
            dict(parameters),
            kernel_name="python3",
            cwd=str(notebook.parent),
            progress_bar=lines if progress == "lines" else True,
            extra_arguments=["--log-level=CRITICAL"],  # the kernel calls its own shutdown an error
        )
        yield written
    except papermill.PapermillExecutionError as error:
        ours = isinstance(getattr(errors, error.ename, None), type)
        message = _plain(error.evalue) if ours else f"{error.ename}: {_plain(error.evalue)}"
        raise ConversionError(message + keep) from error
    except DeadKernelError as error:
        raise ConversionError(f"The notebook's kernel died, most likely for want of memory.{keep}") from error
    except (ConversionError, OSError) as error:
        raise ConversionError(f"{error}{keep}") from error
    except BaseException:
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def place(source: Path, destination: Path) -> None:
    """Copies, whole or not at all: a rename would not do, as the two may be on different file systems."""
    with source.open("rb") as original, written_whole(destination) as file:
        shutil.copyfileobj(original, file)
