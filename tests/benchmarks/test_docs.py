"""The tables that a batch's report and the measured latencies become."""

import json

from benchmarks import docs


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
