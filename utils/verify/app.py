"""`utils.verify` as one file, for who has not cloned the repository: `python -m utils.verify.app verify.pyz`.

The file is a zip archive of the very modules, found by following their imports; Python runs it as it is. It holds no
TensorFlow, and nothing but Python's own library and TensorFlow (with NumPy) is imported by it.
"""

from __future__ import annotations

import os
import sys
import zipfile
from modulefinder import ModuleFinder
from pathlib import Path

from utils.families import FAMILIES
from utils.files import written_whole

ROOT = Path(__file__).resolve().parents[2]
_MAIN = '''"""Verifies downloaded models: python verify.pyz FILE ..."""

import sys

if sys.version_info < (3, 11):
    sys.exit("verify.pyz needs Python 3.11 or newer; this is Python " + sys.version.split()[0] + ".")
try:
    import numpy
except ImportError:
    sys.exit("verify.pyz needs TensorFlow: pip install tensorflow")
from utils.verify.command import main

sys.exit(main())
'''


def build(path: str | os.PathLike) -> Path:
    """Writes the archive, complete or not at all. The same modules give the same bytes."""
    path = Path(path).expanduser().absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    finder = ModuleFinder([str(ROOT)])  # where nothing else is found, TensorFlow and Python's own modules least of all
    # And whatever these import, anywhere in their code; families load their layouts by name.
    for module in ("utils.verify.command", *(f"{family.package}.layout" for family in FAMILIES.values())):
        finder.import_hook(module)
    modules = sorted(module.__file__ for module in finder.modules.values() if module.__file__)  # None: Python's own
    contents = {"__main__.py": _MAIN}
    contents |= {Path(file).relative_to(ROOT).as_posix(): Path(file).read_text("utf-8") for file in modules}
    with written_whole(path, mode=0o755) as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w") as archive:
            for name, text in contents.items():
                archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)  # a new ZipInfo's date is 1980
    return path


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m utils.verify.app verify.pyz")
    print(build(sys.argv[1]))
