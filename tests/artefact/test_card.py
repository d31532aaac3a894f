"""The model card: its head, by a parser of the documented form that knows nothing of who wrote it; its claims."""

import re
from pathlib import Path

import pytest
from manifests import GRADIENTS, NAME, ROW, TENSORS, TRAINING, manifest, own

from utils.artefact.assumed import assumptions
from utils.artefact.card import model_card
from utils.artefact.manifest import packed_manifest
from utils.families.variants import HEADS, VARIANTS, Preprocessing

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
# What a conversion of one's own checkpoint may be told.
PARAMETERS = {f"`{key}`" for key in ("activation", "epsilon", "image_size", "crop_pct", "interpolation", "mean", "std")}
BESIDE = {key: {"sha256": "cd" * 32, "bytes": 500_000} for key in ("keras", "onnx")}
THREE = dict.fromkeys(("serving_default", "serving_image", "serving_image_bytes"), TENSORS)


def parse(card):
    """(sentence, tags: a list of values for each key) of a card of the documented form."""
    handle, sentence, *rest = card.split("\n#")[0].splitlines()
    assert HANDLE.fullmatch(handle)
    assert sentence
    assert not sentence.startswith("<!--")
    tags = {}
    for line in filter(None, rest):
        key, value = TAG.fullmatch(line).groups()
        tags.setdefault(key, []).append(value)
    assert set(tags) >= REQUIRED
    assert [key for key, values in tags.items() if len(values) > 1 and key != "dataset"] == []
    assert [key for key in ALLOWED if not set(tags.get(key, [])) <= ALLOWED[key]] == []
    return sentence, tags


def official(variant="convmixer_768_32", head="classification", **changes):
    row = VARIANTS[variant]
    source = {"url": row.sources[0].url, "path": None, "sha256": "ab" * 32}
    common = {"name": f"{variant}_{head}", "variant": row, "head": head, "weights": "official", "source": source}
    return manifest(**(common | changes))


def synthetic(**changes):
    return manifest(name=f"{NAME}_synthetic", weights="synthetic", **changes)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["convmixer_768_32", "mixer_b16_i1k", "mixer_b16_i21k"])
def test_head_of_a_card_has_the_documented_form(name, head):
    sentence, tags = parse(model_card(official(name, head)))
    assert name in sentence
    assert re.fullmatch(rf"https://\S+/{name}_{head}\.tar\.gz", tags["asset-path"][0])
    assert tags["dataset"] == ["imagenet-21k" if name.endswith("i21k") else "imagenet-ilsvrc-2012-cls"]
    assert tags["license"] == ["mit" if name.startswith("convmixer") else "apache-2.0"]
    assert (ROOT / tags["colab"][0].rsplit("/", 1)[1]).is_file()


@pytest.mark.parametrize(
    ("made", "asset", "datasets", "licence"),
    [
        (manifest(), NAME, None, "custom"),
        (synthetic(), f"{NAME}_synthetic", None, "apache-2.0"),
        (official(name="mine", training=TRAINING), "mine", ["imagenet-ilsvrc-2012-cls", "other"], "mit"),
    ],
    ids=["custom", "synthetic", "fine-tuned"],
)
def test_only_official_weights_are_said_to_be_released_and_have_their_authors_licence(made, asset, datasets, licence):
    card = model_card(made)
    _, tags = parse(card)
    assert tags["asset-path"] == [f"{asset}.tar.gz"]
    assert tags.get("dataset") == datasets
    assert tags["license"] == [licence]
    assert "80.16 %" not in card  # the official weights' accuracy


def test_fine_tunable_is_what_was_measured():
    def tag(made):
        return parse(model_card(made))[1]["fine-tunable"]

    assert tag(manifest(parity={"passed": True, "rows": [ROW, *GRADIENTS], "tolerance": {}})) == ["true"]
    assert tag(manifest(parity={"passed": True, "rows": [ROW], "tolerance": {}})) == ["false"]
    failed = manifest()
    failed["parity"]["rows"][-1]["passed"] = False
    assert tag(failed) == ["false"]


def test_a_synthetic_model_says_so_wherever_someone_may_begin_to_read():
    card = model_card(synthetic())
    sentence, _ = parse(card)
    assert sentence.startswith("SYNTHETIC WEIGHTS")
    sections = dict(part.split("\n", 1) for part in card.split("\n## ")[1:])
    for title in ("Overview", "Intended use and limits", "Use", "Provenance", "Licence and citation"):
        assert "synthetic" in sections[title].lower(), title


# What the card must say, and must not.
CLAIMS = {
    "what a user needs": (
        manifest(versions={"tensorflow": "2.21.0", "minimum_tensorflow": "2.14"}),
        ["8,010", "TensorFlow 2.14", "`inputs` float32 [B, 48, 48, 3]", "50 pixels", "ab" * 32, "`tiny.pth.tar`"],
        ["private", "SYNTHETIC", "serving_image_bytes"],
    ),
    "image signatures": (manifest(signatures=THREE), ['["serving_image_bytes"](image_bytes='], []),
    "ten channels": (
        manifest(preprocessing=Preprocessing(50, 48, (0.0,) * 10, (1.0,) * 10)),
        ["10-channel images"],
        ["photographs into", "red, green and blue"],
    ),
    "official": (official(), ["80.16 %", VARIANTS["convmixer_768_32"].sources[0].url], []),
    "features": (official(head="fe"), ["transfer learning"], ["80.16"]),
    "fine-tuned": (manifest(training=TRAINING), ["0.9321 in epoch 2 of 3", "trained model"], ["source model with"]),
    "fine-tuned from synthetic weights": (synthetic(training=TRAINING), ["SYNTHETIC WEIGHTS"], ["recognise nothing"]),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_card_claims_what_is_known_and_no_more_beside_the_tarball_and_in_it(case):
    made, claimed, not_claimed = CLAIMS[case]
    for card in (model_card(made), model_card(packed_manifest(made))):
        assert [text for text in claimed if text not in card] == []
        assert [text for text in not_claimed if text in card] == []


def test_a_card_of_ones_own_checkpoint_says_what_is_assumed_until_numbers_prove_it():
    made = manifest(variant=own(), name="mine_classification")
    architecture, images = assumptions(made)
    named = {word for word in PARAMETERS if word in architecture + images}
    assert named == {"`epsilon`", "`crop_pct`", "`interpolation`"}
    card = model_card(made)
    parse(card)
    overview = card.split("\n## ")[1]
    assert (f"**{architecture}**" in overview, f"**{images}**" in overview) == (True, True)
    assert "| `epsilon` | 1e-05 | nobody: **assumed** |" in card
    assert "| `mean` | 0.485, 0.456, 0.406 | the checkpoint file |" in card
    proved = made | {"reference": {"verdict": "proved", "images": 0}}
    assert assumptions(proved) == [images]
    assert "**assumed** to be" not in model_card(proved)
    for verdict, left in (("proved", []), ("not proved", [architecture, images])):
        found = {"verdict": verdict, "images": 2, "image_verdict": "proved"}
        assert assumptions(made | {"reference": found}) == left


def test_of_authors_weights_and_of_what_was_trained_here_nothing_is_assumed_and_of_an_older_own_model_everything():
    assert assumptions(official()) == assumptions(synthetic()) == assumptions(manifest(training=TRAINING)) == []
    architecture, images = assumptions(manifest())
    assert {word for word in PARAMETERS if word in architecture + images} == PARAMETERS


def test_figures_and_files_beside_the_tarball_are_in_the_card_beside_it_and_not_in_the_one_inside():
    made = manifest() | BESIDE
    card, inside = model_card(made), model_card(packed_manifest(made))
    assert inside == model_card(packed_manifest(manifest()))
    for text in ("1.1e-06", "worst of 3 | noise | 3 | 5.5e-06", f'load_model("{NAME}.keras")', f'("{NAME}.onnx")'):
        assert text in card
        assert text not in inside
    assert f"`{NAME}.json`" in inside


@pytest.mark.parametrize(
    "training",
    [{"history": {"loss": [1.0]}}, {"history": 1, "best_epoch": 1}, {"history": {"a": [[]]}, "best_epoch": 1}],
)
def test_a_strange_training_is_shown_as_it_is(training):
    assert f"history{': ' if isinstance(training['history'], dict) else ' '}" in model_card(manifest(training=training))


def test_the_card_s_code_is_python():
    blocks = model_card(manifest(signatures=THREE) | BESIDE).split("```python\n")[1:]
    assert blocks
    for block in blocks:
        compile(block.split("```")[0], "card", "exec")


@pytest.mark.parametrize(
    ("made", "warns"),
    [
        (official("mixer_b16_i1k", signatures=THREE), True),
        (official("convmixer_768_32", signatures=THREE), False),
        (manifest(signatures=THREE), False),
    ],
    ids=["mixer", "convmixer", "custom"],
)
def test_a_card_warns_of_a_sigmoid_loss_where_it_is_known(made, warns):
    assert ("sigmoid(logit)" in model_card(made)) == warns
