"""Whatever stands in a manifest, an index or a record is right, or an error of ours that names the field."""

import copy
import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from manifests import NAME, ROW, TENSORS, TRAINING, VARIANT, manifest, own

from utils.artefact.contents import architecture_of, read_manifest
from utils.artefact.manifest import check_manifest, installed_versions, packed_manifest
from utils.artefact.record import Record
from utils.artefact.typed import check
from utils.errors import PackagingError
from utils.release.index import IndexEntry
from utils.verify.files import check_beside

GOOD = manifest()
FIELDS = "name variant head weights source versions parameters signatures parity seconds peak_memory_mb files"
BOUNDED = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,  # the same cases on every machine
    database=None,
    suppress_health_check=list(HealthCheck),
)

REFERENCE = {"sha256": "ab" * 32, "verdict": "proved", "inputs": 3, "error": 1e-6}


def test_manifest_has_the_documented_fields_and_those_that_were_given():
    found = manifest()
    assert list(found) == ["schema", *FIELDS.split(), "model", "format"]
    assert (found["variant"], found["seconds"]["load"]) == ("convmixer_tiny", 0.123)
    assert found["model"]["licence"] == VARIANT.licence
    assert found["model"]["preprocessing"]["mean"] == list(VARIANT.preprocessing.mean)
    given = {"training": TRAINING, "settings": {"seed": 3}, "peak_memory_mb_by_stage": {"export": 700.0}}
    found = manifest(**given, preprocessing=replace(VARIANT.preprocessing, resize=100, crop=96))
    assert {key: found[key] for key in given} == given
    assert found["model"]["preprocessing"]["crop"] == 96


def test_manifest_of_ones_own_checkpoint_says_of_each_field_who_knows_it():
    assert not {"source", "sources"} & {*GOOD["model"]["architecture"], *GOOD["model"]["preprocessing"]}
    found = manifest(variant=own(), names={"stem/kernel": "net.0.weight"})
    model = found["model"]
    assert (found["variant"], found["names"]) == ("own", {"stem/kernel": "net.0.weight"})
    assert model["architecture"]["sources"] == {"activation": "given", "epsilon": "assumed"}
    assert model["preprocessing"]["sources"] == {
        **{"crop_pct": "assumed", "image_size": "file", "interpolation": "assumed", "mean": "file", "std": "given"}
    }
    assert (model["architecture"]["source"], model["preprocessing"]["source"]) == ("assumed", "file")
    assert manifest(variant=own(epsilon="given"))["model"]["architecture"]["source"] == "given"
    assert manifest(variant=own(mean="assumed"))["model"]["preprocessing"]["source"] == "assumed"
    assert architecture_of(packed_manifest(found)) == VARIANT.architecture


# The field that is named, and what is wrong with the manifest.
WRONG = [
    ("parity", {"parity": {"passed": False, "tolerance": {}, "rows": [ROW]}}),
    ("parity", {"parity": {"passed": True, "tolerance": {}, "rows": []}}),
    ("parity", {"parity": {"passed": True, "tolerance": {}, "rows": [ROW | {"passed": False}]}}),
    ("preprocessing_parity", {"preprocessing_parity": {"passed": False, "tolerance": {}, "rows": [ROW]}}),
    ("weights", {"weights": "borrowed"}),
    ("name", {"weights": "synthetic"}),
    ("name", {"name": f"{NAME}_synthetic"}),
    ("name", {"name": "../convmixer"}),
    ("source", {"weights": "official"}),
    ("source.sha256", {"source": {"url": "https://example.org/a", "path": None, "sha256": None}}),
    ("source.sha256", {"source": {"url": None, "path": "a", "sha256": "abc"}}),
    ("head", {"head": "tail"}),
    ("versions", {"versions": {}}),
    ("versions.tensorflow", {"versions": {"tensorflow": None}}),
    ("parameters", {"parameters": 0}),
    ("parameters", {"parameters": 1.5}),
    ("signatures", {"signatures": {"other": TENSORS}}),
    ("signatures.serving_default.outputs", {"signatures": {"serving_default": {"inputs": {}}}}),
    ("signatures", {"signatures": {"serving_default": TENSORS | {"outputs": {}}}}),
    ("parity.tolerance", {"parity": {"passed": True, "tolerance": {}, "rows": [ROW | {"tolerance": 0.0}]}}),
    ("parity.tolerance", {"parity": {"passed": True, "tolerance": {"logits": 1e9}, "rows": [ROW]}}),
    ("seconds.load", {"seconds": {"load": -1.0}}),
    ("seconds", {"seconds": {}}),
    ("peak_memory_mb", {"peak_memory_mb": 0}),
    ("files", {"files": {"other": "ab" * 32}}),
    ("files", {"files": {"saved_model.pb": "ab" * 32, "assets.extra/manifest.json": "ab" * 32}}),
    ("files.saved_model.pb", {"files": {"saved_model.pb": "sha256"}}),
    ("a value cannot", {"training": {"history": {"loss": [float("nan")]}}}),
    ("reference.verdict", {"reference": REFERENCE | {"verdict": "wrong"}}),
    ("reference.inputs", {"reference": REFERENCE | {"inputs": 0}}),
    ("reference.error", {"reference": REFERENCE | {"error": -1.0}}),
    ("sedonds", {"sedonds": {}}),
    ("names.a", {"names": {"a": 1}}),
    ("weights", {"variant": own(), "weights": "synthetic", "name": f"{NAME}_synthetic"}),
]


def test_what_a_makers_answers_prove_travels_with_the_artefact_without_figures():
    photographs = {"image_verdict": "not proved", "images": 2, "image_error": 1e-3}
    found = manifest(reference=REFERENCE | photographs)
    assert found["reference"] == REFERENCE | photographs
    packed = packed_manifest(found)["reference"]
    assert packed == {key: value for key, value in (REFERENCE | photographs).items() if not key.endswith("error")}
    assert "reference" not in packed_manifest(manifest())


@pytest.mark.parametrize(("field", "changes"), WRONG)
def test_wrong_manifest_is_an_error_that_names_the_field(field, changes):
    with pytest.raises(PackagingError, match=f"^manifest: {field} "):
        manifest(**changes)


def test_model_of_no_known_family_is_refused():
    made = manifest()
    made["model"]["family"] = "resnet"
    with pytest.raises(PackagingError, match=r"^manifest: model\.family is 'resnet'"):
        check_manifest(made)


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("architecture", {"source": "known"}, "source is 'known'"),
        ("architecture", {"sources": {"activation": None}}, "sources.activation is None"),
        ("architecture", {"source": "given"}, "source is 'given'. Expected assumed"),
        ("preprocessing", {"source": "given"}, "source is 'given'. Expected file"),
        ("preprocessing", {"sources": {}}, "source is 'file'. Expected assumed"),
        ("preprocessing", {"sources": []}, r"sources is \[\]"),
    ],
)
def test_what_is_assumed_cannot_be_called_known(part, changes, said):
    made = manifest(variant=own())
    made["model"][part] |= changes
    with pytest.raises(PackagingError, match=rf"^manifest: model\.{part}\.{said}"):
        check_manifest(made)


@pytest.mark.parametrize(
    ("field", "value"), [("dim", 0), ("patch_size", -1), ("depth", "3"), ("activation", "silu"), ("channels", None)]
)
def test_sizes_that_no_model_has_are_refused(field, value):
    made = copy.deepcopy(GOOD)
    made["model"]["architecture"][field] = value
    with pytest.raises(PackagingError, match=rf"^manifest: model\.architecture\.{field} is"):
        architecture_of(made)


@pytest.mark.parametrize("field", FIELDS.split())
def test_manifest_without_a_field_is_an_error_that_names_it(field):
    with pytest.raises(PackagingError, match=f"^manifest: {field} is"):
        check_manifest({key: value for key, value in GOOD.items() if key != field})


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("format",), [], "format is []"),
        (("parity", "tolerance"), [], "parity.tolerance is []"),
        (("parity", "rows", 3, "relative"), float("nan"), "parity.rows[3].relative is nan"),
        (("parity", "rows", 1, "batch"), True, "parity.rows[1].batch is True"),
        (("parameters",), 10**400, "parameters is"),
        (("model", "preprocessing", "mean"), [0, 0, None], "model.preprocessing.mean[2] is None"),
        (("model", "preprocessing", "mean"), "red", "model.preprocessing.mean is 'red'"),
        (
            ("signatures", "serving_default", "inputs", "inputs"),
            {},
            "signatures.serving_default.inputs.inputs.dtype is",
        ),
        (("variant",), "\ud800", "variant is"),
        (("notes",), ["\udfff"], "notes[0] is"),
        (("settings",), {"a": [float("inf")]}, "settings.a[0] is inf"),
        (("a newer field",), {"b": -float("inf")}, "a newer field.b is -inf"),
    ],
)
def test_what_is_odd_is_named_by_its_path(path, value, said):
    found = copy.deepcopy(GOOD)
    *above, last = path
    place = found
    for key in above:
        place = place[key]
    place[last] = value
    with pytest.raises(PackagingError) as caught:
        check_manifest(found, "a.json")
    assert str(caught.value).startswith(f"a.json: {said}")


def test_fields_of_a_newer_version_are_kept_and_named():
    found = copy.deepcopy(GOOD) | {"schema": 2, "provenance": {"builder": [1, None]}}
    found["parity"]["rows"][1]["quantile"] = 0.5
    assert check_manifest(found) == ["parity.rows[1].quantile", "provenance"]
    assert packed_manifest(found)["provenance"] == {"builder": [1, None]}


def test_a_manifest_from_before_the_schema_says_the_same_in_todays_fields(tmp_path):
    old = {key: value for key, value in GOOD.items() if key not in ("schema", "format")}
    more = {"minimum_tensorflow": "2.14", "platforms": "cpu, cuda", "stablehlo_version": "1.8.0"}
    (tmp_path / "a.json").write_text(json.dumps(old | {"versions": old["versions"] | more}))
    found = read_manifest(tmp_path / "a.json")
    assert (found["schema"], found["format"], found["operations"]) == (1, "saved_model", "xla")
    assert (found["minimum_tensorflow"], found["platforms"]) == ("2.14", ["cpu", "cuda"])
    assert found["versions"] == old["versions"] | {"stablehlo_version": "1.8.0"}


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "a", "name": "b"}',
        "[" * 100_000,
        '{"a":' * 900 + "1" + "}" * 900,
        "1" * 5000,
        '{"parameters": ' + "1" * 5000 + "}",
        "[]",
        "NaN",
        "\ufeff{}",
        "",
    ],
    ids=["a key twice", "open lists", "deep", "digits", "digits inside", "a list", "NaN", "BOM", "nothing"],
)
def test_text_that_is_no_manifest_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(PackagingError, match=r"^a\.json"):
        read_manifest(tmp_path / "a.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def paths_in(value, path=()):
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths_in(item, (*path, key))


@st.composite
def mutated(draw):
    """A good manifest with one to three of its values replaced, at any depth, removed, or joined by another."""
    found = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from([path for path in paths_in(found) if path]))
        place = found
        for key in above:
            place = place[key]
        change = draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "remove":
            del place[last]
        elif change == "add" and isinstance(place, dict):
            place[draw(st.text(max_size=8))] = draw(JSON)
        else:
            place[last] = draw(JSON)
        if not any(paths_in(found)):
            break
    return found


@BOUNDED
@given(st.sampled_from([Record, list[IndexEntry], dict[str, IndexEntry]]), JSON)
def test_arbitrary_json_is_nothing_else_than_refused(kind, value):
    try:
        check(value, kind, "a.json")
    except PackagingError as error:
        str(error).encode()  # can be printed


@BOUNDED
@given(mutated())
def test_a_mutated_manifest_serves_everything_behind_the_check_or_is_refused(tmp_path_factory, found):
    folder = tmp_path_factory.mktemp("mutated", numbered=True)
    path = folder / f"{GOOD['name']}.json"
    path.write_text(json.dumps(found))
    try:
        read = read_manifest(path)
        inside = packed_manifest(read)
        check_manifest(inside)
        check_beside(path.with_suffix(".tar.gz"), inside)
    except PackagingError as error:
        str(error).encode()


def test_versions_come_from_what_is_installed():
    import numpy

    assert installed_versions(["numpy"]) == {"numpy": numpy.__version__}
    with pytest.raises(PackagingError, match="no-such-library"):
        installed_versions(["numpy", "no-such-library"])
