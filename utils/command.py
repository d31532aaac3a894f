"""How a command of this project ends: what it prints, and its exit status."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from utils.errors import ConversionError


def run_command(work: Callable[[], str], interrupted: str) -> int:
    """Prints what `work` returns. Exit status: 0 done, 1 an error whose message was printed, 130 interrupted.

    interrupted: what to say of that.
    """
    # Being ended is being interrupted: a notebook's kernel is another process, and must clean up too, and what waits
    # in threads is to be left.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        print(work())
    except ConversionError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0
