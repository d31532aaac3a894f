"""README.md shows what the registry and the benchmarks' files say, and every place that it links to is there."""

import json
import re

from benchmarks import releases
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
    samples = [{"name": name, "seconds": value} for name, value in seconds.items()]
    (tmp_path / "release_latency.json").write_text(json.dumps({"samples": samples}))
    assert releases.releases_table(tmp_path) == releases.batch_table(tmp_path) == releases.NOT_YET
    releases.keep(batch, tmp_path)
    table = releases.releases_table(tmp_path).splitlines()
    assert "`classification_plain` | official | 1,000 | 5.0 MB | 1.0e-06 |  | 300 ms | ≥ 2.14" in table[2]
    assert "150 ms" in next(line for line in table if "classification_xla" in line)
    assert "140 ms" in next(line for line in table if "fe_xla" in line)
    assert not any(" ms" in line for line in table if "fe_plain" in line)  # not measured
    assert "| mixer, plain | 2 | 2.0 min | 60 s | 900 MB | 0.01 GB | 0.02 GB |" in releases.batch_table(tmp_path)
