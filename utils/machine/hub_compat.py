"""Lets tensorflow-hub 0.16 (its last release) be imported beside a setuptools that no longer has pkg_resources.

Colab's setuptools is Colab's business: it is neither downgraded nor shadowed. Of pkg_resources, which setuptools 82
removed, tensorflow-hub takes one function, once, while it is imported.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types

from utils.errors import ConversionError


@functools.cache
def import_hub() -> types.ModuleType:
    """The module `tensorflow_hub`; a plain `import tensorflow_hub` afterwards finds it too.

    Raises ConversionError, with the command that installs it, when it is not there.
    """
    if importlib.util.find_spec("tensorflow_hub") is None:
        raise ConversionError("tensorflow-hub is not installed. Install it: pip install tensorflow-hub==0.16.1")
    if "pkg_resources" in sys.modules or importlib.util.find_spec("pkg_resources") is not None:
        return importlib.import_module("tensorflow_hub")

    import tensorflow  # noqa: F401  (first, so that nothing in it sees the stand-in)
    from packaging.version import parse

    stand_in = types.ModuleType("pkg_resources", "of setuptools below 82, what tensorflow-hub takes")
    stand_in.parse_version = parse
    sys.modules["pkg_resources"] = stand_in
    try:
        return importlib.import_module("tensorflow_hub")
    finally:
        del sys.modules["pkg_resources"]  # others ask whether it is there, and expect all of it
