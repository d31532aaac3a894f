"""Keeps the frameworks' start-up chatter out of notebooks, and nothing else."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_imports() -> Iterator[None]:
    """For importing TensorFlow and friends: what they write to stderr is shown only if the import fails.

    TensorFlow logs which devices it did not find before any log level applies, straight to file descriptor 2.
    """
    # What is an error to Python is raised. The rest of that level is about the processor: no CUDA, no uint8 in oneDNN.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        try:
            os.dup2(chatter.fileno(), 2)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
                if tensorflow := sys.modules.get("tensorflow"):
                    tensorflow.config.list_physical_devices()  # the rest of it comes with the first look
                    tensorflow.get_logger().setLevel("ERROR")  # "INFO: Assets written to ..." is not news here
        except BaseException:
            os.dup2(kept, 2)
            chatter.seek(0)
            sys.stderr.write(chatter.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
