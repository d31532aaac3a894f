"""README.md and docs/: links lead somewhere, each variant is in its table, commands are there."""

import importlib.util
import json
import re
from collections import Counter

import pytest
from snippets import BLOCK_OF_CODE

from benchmarks.command import ROOT
from utils.families.variants import VARIANTS

PAGES = sorted((ROOT / "docs").glob("*.md"))
WRITTEN = sorted((ROOT / "assets" / "tables").glob("*.md"))  # by the benchmarks
PROSE = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES)}
text = pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)


def links(path, text):
    """Where a page leads to in the repository: (file, anchor), the anchor empty where there is none."""
    text = re.sub(r"`[^`\n]+`", "", BLOCK_OF_CODE.sub("", text))
    split = [target.partition("#") for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    return [((path.parent / file).resolve() if file else path, anchor) for file, _, anchor in split]


def anchors(text):
    """As GitHub makes them of headings: lower case, without punctuation, hyphens for blanks."""
    headings = re.findall(r"^#+ (.+)$", BLOCK_OF_CODE.sub("", text), re.MULTILINE)
    seen = Counter()
    for heading in (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings):
        seen[heading] += 1
        yield heading if seen[heading] == 1 else f"{heading}-{seen[heading] - 1}"


@text
def test_links_into_the_repository_lead_somewhere(path):
    dead = [
        (str(file), anchor)
        for file, anchor in links(path, PROSE[path])
        if not file.exists() or (anchor and anchor not in anchors(file.read_text("utf-8")))
    ]
    assert dead == []


def test_every_page_and_every_table_of_a_benchmark_can_be_reached():
    linked = {file for path, prose in PROSE.items() for file, _ in links(path, prose)}
    assert [path.name for path in (*PAGES, *WRITTEN) if path not in linked] == []


@text
def test_figures_in_a_paragraph_that_links_to_a_benchmark_s_table_stand_there(path):
    wrong = []
    for paragraph in PROSE[path].split("\n\n"):
        tables = "".join(file.read_text("utf-8") for file, _ in links(path, paragraph) if file in WRITTEN)
        figures = set(re.findall(r"(?<![\d.])\d+\.\d+(?:e-\d+)?\b|\b\d+e-\d+\b", paragraph)) if tables else ()
        wrong += [figure for figure in figures if not re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", tables)]
    assert wrong == []


@pytest.mark.parametrize("variant", [v for v in VARIANTS.values() if not v.testing], ids=lambda variant: variant.name)
def test_each_variant_stands_in_the_table_with_its_size_accuracy_and_file(variant):
    page = PROSE[ROOT / "docs" / "conversion.md"]
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{variant.name}` |")]
    assert f"| {variant.parameters:,} |" in row
    assert f"({variant.sources[0].url})" in row
    assert variant.top1 is None or f"| {variant.top1:.2f} % |" in row
    (row,) = [line for line in PROSE[ROOT / "README.md"].splitlines() if f"`{variant.name}`" in line and "|" in line]
    _, _, names, sizes, top1, times, *_ = (cell.strip().split(", ") for cell in row.split("|"))
    place = names.index(f"`{variant.name}`")
    assert sizes[place] == f"{variant.parameters / 1e6:.0f}"
    latency = json.loads((ROOT / "assets/tables/release_latency.json").read_text("utf-8"))["samples"]
    (seconds,) = [s["seconds"] for s in latency if s["name"].startswith(f"{variant.name}_classification_synth")]
    assert abs(int(times[place]) - 1000 * seconds) < 1
    assert [top1[place]] == [f"{variant.top1:.2f}"] if variant.top1 else top1[-1] in ("none", "not confirmed")


@text
def test_modules_that_are_to_be_run_are_there(path):
    ours = re.findall(r"-m ((?:utils|benchmarks)[\w.]*\w)", PROSE[path])
    assert [module for module in ours if importlib.util.find_spec(module) is None] == []
