"""The manifest: what has to be in it, and what is refused."""

import json
from dataclasses import replace

import pytest
from manifests import NAME, ROW, TENSORS, TRAINING, VARIANT, manifest

from utils.artefact.manifest import check_manifest, installed_versions
from utils.errors import PackagingError

FIELDS = "name variant head weights source versions parameters signatures parity seconds peak_memory_mb files"


def test_the_manifest_has_the_documented_fields_and_those_that_were_given():
    found = manifest()
    assert list(found) == ["schema", *FIELDS.split(), "model", "format"]
    assert found["variant"] == "convmixer_tiny"
    assert found["seconds"]["load"] == 0.123
    assert found["model"]["licence"] == VARIANT.licence
    assert found["model"]["preprocessing"]["mean"] == list(VARIANT.preprocessing.mean)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    given = {"training": TRAINING, "settings": {"seed": 3}, "peak_memory_mb_by_stage": {"export": 700.0}}
    found = manifest(**given, preprocessing=replace(VARIANT.preprocessing, resize=100, crop=96))
    assert {key: found[key] for key in given} == given
    assert found["model"]["preprocessing"]["crop"] == 96


WRONG = {
    "parity that failed": {"parity": {"passed": False, "tolerance": {}, "rows": [ROW]}},
    "parity without rows": {"parity": {"passed": True, "tolerance": {}, "rows": []}},
    "parity with a failed row": {"parity": {"passed": True, "tolerance": {}, "rows": [ROW | {"passed": False}]}},
    "parity of None": {"parity": None},
    "unknown weights": {"weights": "borrowed"},
    "synthetic weights under a plain name": {"weights": "synthetic"},
    "other weights under a synthetic name": {"name": f"{NAME}_synthetic"},
    "official weights without a url": {"weights": "official"},
    "no SHA-256": {"source": {"url": "https://example.org/a", "path": None, "sha256": None}},
    "a short SHA-256": {"source": {"url": None, "path": "a", "sha256": "abc"}},
    "an unknown head": {"head": "tail"},
    "no versions": {"versions": {}},
    "an unknown version": {"versions": {"tensorflow": None}},
    "no parameters": {"parameters": 0},
    "parameters that are no count": {"parameters": 1.5},
    "no serving_default": {"signatures": {"other": TENSORS}},
    "a signature without outputs": {"signatures": {"serving_default": {"inputs": {}}}},
    "a tensor without shape": {
        "signatures": {"serving_default": TENSORS | {"inputs": {"inputs": {"dtype": "float32"}}}}
    },
    "negative seconds": {"seconds": {"load": -1.0}},
    "seconds of NaN": {"seconds": {"load": float("nan")}},
    "no seconds": {"seconds": {}},
    "no memory": {"peak_memory_mb": 0},
    "no saved_model.pb": {"files": {"other": "ab" * 32}},
    "itself among the files": {"files": {"saved_model.pb": "ab" * 32, "assets.extra/manifest.json": "ab" * 32}},
    "a hash that is none": {"files": {"saved_model.pb": "sha256"}},
    "a path for a name": {"name": "../convmixer"},
    "NaN in the training history": {"training": {"history": {"loss": [float("nan")]}}},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_manifest_is_an_error_that_names_the_field(case):
    with pytest.raises(PackagingError, match="manifest: ") as caught:
        manifest(**WRONG[case])
    fields = {"name", "weights", "source", "training", *WRONG[case]}
    assert any(field in str(caught.value) for field in fields) or "JSON" in str(caught.value)


@pytest.mark.parametrize("field", FIELDS.split())
def test_a_manifest_without_a_field_is_an_error_that_names_it(field):
    found = manifest()
    del found[field]
    with pytest.raises(PackagingError, match=field):
        check_manifest(found)


def test_versions_come_from_what_is_installed():
    import numpy

    assert installed_versions(["numpy"]) == {"numpy": numpy.__version__}
    with pytest.raises(PackagingError, match="no-such-library"):
        installed_versions(["numpy", "no-such-library"])
