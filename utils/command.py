"""How a command of this project ends: what it prints, and its exit status."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from utils.errors import ConversionError, ParameterError

PARENT_VARIABLE = "MIXERS_PARENT"  # environment: the process without which this one is to end


def run_command(work: Callable[[], str], interrupted: str) -> int:
    """Prints what `work` returns. Exit status: 0 done, 1 an error whose message was printed, 130 interrupted.

    interrupted: what to say of that, unless the KeyboardInterrupt itself says something.
    """
    # Being ended is being interrupted: a notebook's kernel is another process, and must clean up too, and what waits
    # in threads is to be left.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Taken out of the environment: what this process starts has another parent, and would end itself at once.
    parent = os.environ.pop(PARENT_VARIABLE, None)
    try:
        if parent:
            threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
        print(work())
    except ConversionError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        if isinstance(error, ParameterError) and "MAKELEVEL" in os.environ:  # it was make that started this
            print(
                "With make, a parameter's name is in upper case, and True is 1: CHECKPOINT=synthetic", file=sys.stderr
            )
        return 1
    except KeyboardInterrupt as error:
        print(f"\n{error.args[0] if error.args else interrupted}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _end_with(parent: int) -> None:
    """Ends this process in an orderly way when its parent is gone, however that one ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def positive(text: str) -> int:
    """For argparse: a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
