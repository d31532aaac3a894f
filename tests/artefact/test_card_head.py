"""The head of the model card, read by a parser of the documented form that knows nothing of who wrote it."""

import re
from pathlib import Path

import pytest
from manifests import GRADIENTS, NAME, ROW, manifest

from utils.artefact.card_head import card_tags
from utils.artefact.staging import model_card
from utils.models.variants import HEADS, VARIANTS

ROOT = Path(__file__).resolve().parents[2]
HANDLE = re.compile(r"# Module [\w-]+/[\w.-]+(/[\w.-]+)*/\d+")
TAG = re.compile(r"<!-- ([a-z-]+): (\S.*\S) -->")
REQUIRED = {"asset-path", "task", "fine-tunable", "format"}
# Of TF Hub's lists, what fits here: https://github.com/tensorflow/tfhub.dev/tree/master/tags
ALLOWED = {
    "task": {"image-classification", "image-feature-vector"},
    "network-architecture": {"cnn", "mixer", "other"},
    "dataset": {"imagenet-ilsvrc-2012-cls", "imagenet-21k", "other"},
    "fine-tunable": {"true", "false"},
    "format": {"saved_model_2"},
    "license": {"apache-2.0", "mit", "custom"},
}


def parse(card):
    """(sentence, tags: a list of values for each key) of a card; ValueError where it is not of the documented form."""
    handle, sentence, *rest = card.splitlines()
    if not HANDLE.fullmatch(handle):
        raise ValueError(f"handle: {handle}")
    if not sentence or sentence.startswith(("#", "<!--")):
        raise ValueError(f"sentence: {sentence}")
    tags = {}
    for line in rest:
        if line.startswith("#"):
            break
        if line and not TAG.fullmatch(line):
            raise ValueError(f"no tag: {line}")
        if line:
            key, value = TAG.fullmatch(line).groups()
            tags.setdefault(key, []).append(value)
    if missing := REQUIRED - set(tags):
        raise ValueError(f"missing: {missing}")
    if repeated := [key for key, values in tags.items() if len(values) > 1 and key != "dataset"]:
        raise ValueError(f"repeated: {repeated}")
    if wrong := [key for key in ALLOWED if not set(tags.get(key, [])) <= ALLOWED[key]]:
        raise ValueError(f"not in TF Hub's list: {wrong}")
    return sentence, tags


def official(variant="convmixer_768_32", head="classification", **changes):
    row = VARIANTS[variant]
    source = {"url": row.sources[0].url, "path": None, "sha256": "ab" * 32}
    common = {"name": f"{variant}_{head}", "variant": row, "head": head, "weights": "official", "source": source}
    return manifest(**(common | changes))


def synthetic(**changes):
    return manifest(**({"name": f"{NAME}_synthetic", "weights": "synthetic"} | changes))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", [name for name, row in VARIANTS.items() if not row.testing])
def test_the_card_of_every_artefact_has_the_documented_form(name, head):
    sentence, tags = parse(model_card(official(name, head)))
    assert name in sentence
    assert sentence.endswith(".")
    assert tags["asset-path"][0].endswith(f"/{name}_{head}.tar.gz")
    assert tags["asset-path"][0].startswith("https://")
    assert tags["dataset"] == ["imagenet-21k" if name.endswith("i21k") else "imagenet-ilsvrc-2012-cls"]
    assert tags["license"] == ["mit" if name.startswith("convmixer") else "apache-2.0"]


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        (lambda card: card.replace("# Module ", "# ", 1), "handle"),
        (lambda card: card.replace("/1\n", "\n", 1), "handle"),
        (lambda card: card.replace("/1\n", "/1\n\n", 1), "sentence"),
        (lambda card: card.replace("<!-- asset-path", "<!-- asset", 1), "missing: {'asset-path'}"),
        (lambda card: re.sub(r"<!-- fine-tunable.*\n", "", card), "missing: {'fine-tunable'}"),
        (lambda card: card.replace("image-classification", "classification"), "not in TF Hub's list: ['task']"),
        (lambda card: card.replace("<!-- format", "<!-- task: image-classification -->\n<!-- format"), "repeated"),
        (lambda card: card.replace("\n## Overview", "\nOf ConvMixer.\n## Overview"), "no tag: Of ConvMixer."),
        (lambda card: card.replace("license: mit -->", "license: mit", 1), "no tag"),
    ],
)
def test_a_card_of_another_form_is_noticed(planted, said):
    card = model_card(official())
    assert planted(card) != card
    with pytest.raises(ValueError, match=re.escape(said)):
        parse(planted(card))


def tags_with(rows):
    return dict(card_tags(manifest() | {"parity": {"passed": True, "rows": rows}}))


def test_fine_tunable_is_what_was_measured():
    assert tags_with([ROW, *GRADIENTS])["fine-tunable"] == "true"
    assert tags_with([ROW])["fine-tunable"] == "false"
    assert tags_with([ROW, *GRADIENTS[:2], GRADIENTS[2] | {"passed": False}])["fine-tunable"] == "false"


def test_the_card_tells_what_fine_tunable_rests_on():
    assert "worst relative error 5.5e-06, allowed 1e-04" in model_card(manifest())
    without = model_card(manifest(parity={"passed": True, "tolerance": {}, "rows": [ROW]}))
    assert "not called fine-tunable" in without
    assert "can be fine-tuned" not in without


def test_only_official_weights_are_said_to_be_released_and_to_have_a_data_set_and_their_authors_licence():
    for made, licence in ((manifest(), "custom"), (synthetic(), "apache-2.0")):
        _, tags = parse(model_card(made))
        assert tags["asset-path"] == [f"{made['name']}.tar.gz"]
        assert "dataset" not in tags
        assert tags["license"] == [licence]


def test_a_fine_tuned_model_is_not_the_released_one():
    _, tags = parse(model_card(official(name="mine", training={"dataset": "digits"})))
    assert tags["asset-path"] == ["mine.tar.gz"]
    assert tags["dataset"] == ["imagenet-ilsvrc-2012-cls", "other"]


def test_a_synthetic_model_says_so_wherever_someone_may_begin_to_read():
    card = model_card(synthetic())
    sentence, _ = parse(card)
    assert sentence.startswith("SYNTHETIC WEIGHTS")
    sections = dict(part.split("\n", 1) for part in card.split("\n## ")[1:])
    for title in ("Overview", "Intended use and limits", "Use", "Provenance", "Licence and citation"):
        assert "synthetic" in sections[title].lower(), title
    assert "classify photographs" not in card


def test_the_card_tells_intended_use_and_limits():
    assert "To classify photographs" in model_card(official())
    features = model_card(official(head="fe"))
    assert "transfer learning" in features
    for card in (model_card(official()), features):
        assert "were not measured here" in card


@pytest.mark.parametrize("head", HEADS)
def test_the_notebook_that_a_card_links_to_is_there(head):
    notebook = dict(card_tags(official(head=head)))["colab"].rsplit("/", 1)[1]
    assert (ROOT / notebook).is_file()
