"""README.md and docs/ show what runs have written, lead to what is there, and say nothing twice."""

import importlib.util
import json
import re
from collections import Counter
from itertools import combinations

import pytest

from benchmarks import docs
from benchmarks.docs import ROOT, TABLES, filled
from utils.families.variants import VARIANTS

README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
WRITTEN = sorted((ROOT / "assets" / "tables").glob("*.md"))  # by the benchmarks
PROSE = {path: path.read_text(encoding="utf-8") for path in (README, ROOT / "CONTRIBUTING.md", *PAGES)}
page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def without_code(text):
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE))


def links(path, text):
    """Where a page leads to in the repository: (file, anchor), the anchor empty where there is none."""
    targets = [t for t in re.findall(r"\]\(([^)\s]+)\)", without_code(text)) if "://" not in t]
    split = [target.partition("#") for target in targets]
    return [((path.parent / file).resolve() if file else path, anchor) for file, _, anchor in split]


def anchors(text):
    """As GitHub makes them of headings: lower case, without punctuation, hyphens for blanks."""
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = [
        re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    ]
    seen = Counter()
    for heading in headings:
        seen[heading] += 1
        yield heading if seen[heading] == 1 else f"{heading}-{seen[heading] - 1}"


def dead(path, text):
    """Links of a page that lead nowhere."""
    return [
        (str(file), anchor)
        for file, anchor in links(path, text)
        if not file.exists() or (anchor and anchor not in anchors(text if file == path else file.read_text("utf-8")))
    ]


def tables(text):
    """The rows of each Markdown table, without its headings."""
    found = re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    return [set(table.strip().splitlines()[2:]) for table in found]


def repeated(texts):
    """Rows that stand in two tables."""
    every = [rows for text in texts for rows in tables(text)]
    return set().union(*(one & other for one, other in combinations(every, 2)))


def unsupported(path, text):
    """Figures of paragraphs that lead to a benchmark's table, and do not stand in it."""
    for paragraph in re.split(r"\n\n|\n(?=- )", text):
        there = [file.read_text("utf-8") for file, _ in links(path, paragraph) if file in WRITTEN]
        for figure in re.findall(r"(?<![\w.])\d+\.\d+(?:e-\d+)?(?![\w.]*\d)", without_code(paragraph) if there else ""):
            if not any(re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", table) for table in there):
                yield figure


@page
def test_tables_are_those_that_the_registry_and_the_batch_wrote(page):
    assert filled(PROSE[page]) == PROSE[page], "run python -m benchmarks.docs"


def test_a_figure_typed_by_hand_is_noticed():
    text = PROSE[ROOT / "docs" / "conversion.md"]
    assert "51,625,960" in text
    assert filled(text.replace("51,625,960", "51,625,961")) == text


def test_a_benchmark_s_table_is_linked_to_and_not_copied():
    with pytest.raises(KeyError, match="link to it"):
        filled("<!-- table: compat -->\n<!-- end -->")


def test_each_generated_table_stands_once_and_in_docs():
    blocks = Counter(name for path in PAGES for name in re.findall(r"<!-- table: (\w+)", PROSE[path]))
    assert blocks == Counter(list(TABLES))
    assert "<!-- table" not in PROSE[README]


def test_no_row_of_a_table_stands_twice():
    texts = [*PROSE.values(), *(path.read_text(encoding="utf-8") for path in WRITTEN)]
    assert len([table for text in texts for table in tables(text)]) > len(WRITTEN)
    assert repeated(texts) == set()
    assert repeated([*texts, texts[-1]]) != set()


def test_each_table_of_a_benchmark_is_linked_to_by_a_page():
    linked = {file for path in PAGES for file, _ in links(path, PROSE[path])}
    assert [path.name for path in WRITTEN if path not in linked] == []


@page
def test_figures_beside_a_link_to_a_table_stand_in_it(page):
    assert list(unsupported(page, PROSE[page])) == []


def test_a_figure_that_its_table_does_not_have_is_noticed():
    path = ROOT / "docs" / "performance.md"
    assert list(unsupported(path, PROSE[path].replace("36.1 s", "36.2 s"))) == ["36.2"]


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_links_into_the_repository_lead_somewhere(path):
    assert dead(path, PROSE[path]) == []


@pytest.mark.parametrize("target", ["nowhere.md", "#nowhere", "conversion.md#nowhere", "LICENSE", "../docs/serving"])
def test_a_link_that_leads_nowhere_is_noticed(target):
    assert len(dead(ROOT / "docs" / "releases.md", f"see [this]({target}) and [that](conversion.md#parameters)")) == 1


def test_readme_is_of_one_sitting():
    assert len(PROSE[README].splitlines()) <= 200


def test_readme_leads_to_every_page():
    assert PAGES
    linked = {file for file, _ in links(README, PROSE[README])}
    assert [path.name for path in PAGES if path not in linked] == []


def test_readme_names_every_variant_and_notebook():
    names = [v.name for v in VARIANTS.values() if not v.testing] + [path.name for path in ROOT.glob("*.ipynb")]
    assert [name for name in names if f"`{name}`" not in PROSE[README]] == []


@page
def test_page_begins_with_what_its_reader_can_do_and_the_way_back(page):
    title, beginning = PROSE[page].split("\n\n", 2)[:2]
    assert re.fullmatch(r"# .+", title)
    assert beginning.startswith("After reading this page you can")
    assert (README, "") in links(page, beginning)


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_modules_that_are_to_be_run_are_there(path):
    ours = re.findall(r"-m ((?:utils|benchmarks)[\w.]*\w)", PROSE[path])
    assert [module for module in ours if importlib.util.find_spec(module) is None] == []


def test_releases_show_the_latency_that_was_measured_of_each(tmp_path):
    batch = tmp_path / "exports"
    (batch / "batch").mkdir(parents=True)
    facts = {
        "weights": "official",
        "parameters": 1000,
        "bytes": 5_000_000,
        "output_error": 1e-6,
        "gradients_error": None,
    }
    facts |= {"family": "mixer", "variant": "mixer_b16_i1k", "minimum_tensorflow": "2.14"}
    entries = [
        facts
        | {"name": f"{head}_{operations}", "head": head, "operations": operations}
        | {"file": f"{head}_{operations}.tar.gz", "derived_from": None}
        for head in ("classification", "fe")
        for operations in ("xla", "plain")
    ]
    (batch / "index.json").write_text(json.dumps({"artefacts": entries}))
    measured = {"seconds": 60, "peak_mb": 900, "tarball_bytes": 5_000_000, "bytes": 9_000_000}
    report = {"runs": [], "conversions": {e["name"]: e | measured for e in entries}}
    (batch / "batch" / "report.json").write_text(json.dumps(report))
    seconds = {"classification_xla": 0.15, "classification_plain": 0.3, "fe_xla": 0.14}
    samples = [{"name": name, "seconds": value, "times": 6.24 * value} for name, value in seconds.items()]
    (tmp_path / "release_latency.json").write_text(json.dumps({"samples": samples}))
    assert docs.releases_table(tmp_path) == docs.batch_table(tmp_path) == docs.NOT_YET
    docs.keep_batch(batch, tmp_path)
    table = docs.releases_table(tmp_path).splitlines()
    assert "`classification_plain` | official | 1,000 | 5.0 MB | 1.0e-06 |  | 300 ms, 1.87 times | ≥ 2.14" in table[2]
    assert "| 150 ms, 0.94 times |" in next(line for line in table if "classification_xla" in line)
    assert not any(" ms" in line for line in table if "fe_plain" in line)  # not measured
    assert "| mixer, plain | 2 | 2.0 min | 60 s | 900 MB | 0.01 GB | 0.02 GB |" in docs.batch_table(tmp_path)
