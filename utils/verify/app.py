"""`utils.verify` as one file, for who has not cloned the repository: `python -m utils.verify.app verify.pyz`.

The file is a zip archive of the very modules, found by following their imports; Python runs it as it is. It holds no
TensorFlow, and nothing but Python's own library and TensorFlow (with NumPy) is imported by it.
"""

from __future__ import annotations

import ast
import os
import sys
import zipfile
from pathlib import Path

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


def modules(start: str = "utils/verify/command.py") -> list[str]:
    """Paths of that module and of all of utils/ that it imports, anywhere in its code, with their wings' faces."""
    found, waiting = {"utils/__init__.py"}, {start}
    while waiting:
        path = waiting.pop()
        found |= {path, f"{path.rpartition('/')[0]}/__init__.py"}
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "utils":
                folder = node.module.replace(".", "/")
                named = {f"{folder}.py", *(f"{folder}/{alias.name}.py" for alias in node.names)}
                waiting |= {name for name in named if (ROOT / name).is_file()}
        waiting -= found
    return sorted(found)


def build(path: str | os.PathLike) -> Path:
    """Writes the archive, complete or not at all. The same modules give the same bytes."""
    path = Path(path).expanduser().absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = {"__main__.py": _MAIN}
    contents |= {name: (ROOT / name).read_text("utf-8") for name in modules()}
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
