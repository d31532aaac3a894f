"""README.md shows what the registry and the benchmarks' files say, and every place that it links to is there."""

import re

from benchmarks.readme import ROOT, filled

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_tables_are_those_that_the_registry_and_the_benchmarks_wrote():
    assert filled(README) == README, "run python -m benchmarks.readme"


def test_a_figure_typed_by_hand_is_noticed():
    assert filled(README.replace("51,625,960", "51,625,961")) == README


def test_links_into_the_repository_lead_somewhere():
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", prose) if "://" not in t]
    assert targets
    assert [t for t in targets if not (ROOT / t).exists()] == []
