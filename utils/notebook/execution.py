"""Executes a notebook by papermill, all or nothing, with errors and interrupts as a command wants them."""

from __future__ import annotations

import io
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils import errors
from utils.errors import ConversionError


class _CellLines(io.TextIOBase):
    """Where papermill's progress bar may write, so that a program can read it: a line on stdout for each cell."""

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

    lines = {"file": _CellLines(), "bar_format": "cell {n_fmt} of {total_fmt}", "mininterval": 0}
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
        message = re.sub(r"\x1b\[[0-9;]*m", "", error.evalue)  # without colours
        ours = isinstance(getattr(errors, error.ename, None), type)
        raise ConversionError(message + keep if ours else f"{error.ename}: {message}{keep}") from error
    except DeadKernelError as error:
        raise ConversionError(f"The notebook's kernel died, most likely for want of memory.{keep}") from error
    except (ConversionError, OSError) as error:
        raise ConversionError(f"{error}{keep}") from error
    except BaseException:
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)
