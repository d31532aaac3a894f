"""The code of README.md and docs/, as it stands there."""

import re

from benchmarks.command import ROOT

BLOCK_OF_CODE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def snippets(page, heading, language="python"):
    """The blocks of code under a heading of a page of docs/."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    _, _, section = text.partition(f"\n## {heading}\n")
    found = BLOCK_OF_CODE.findall(re.split(r"^## ", section, maxsplit=1, flags=re.MULTILINE)[0])
    return [code for each, code in found if each == language]
