"""The model card: its head, by a parser of the documented form that knows nothing of who wrote it; its claims."""

import re
from pathlib import Path

import pytest
from manifests import GRADIENTS, NAME, ROW, TENSORS, TRAINING, manifest

from utils.artefact.card import model_card
from utils.artefact.card_head import card_tags
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

BESIDE = {key: {"sha256": "cd" * 32, "bytes": 500_000} for key in ("keras", "onnx")}


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
@pytest.mark.parametrize("name", [name for name, row in VARIANTS.items() if not row.testing])
def test_the_card_of_every_artefact_has_the_documented_form(name, head):
    sentence, tags = parse(model_card(official(name, head)))
    assert name in sentence
    assert sentence.endswith(".")
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
    _, tags = parse(model_card(made))
    assert tags["asset-path"] == [f"{asset}.tar.gz"]
    assert tags.get("dataset") == datasets
    assert tags["license"] == [licence]


def test_fine_tunable_is_what_was_measured():
    def tag(rows):
        return dict(card_tags(manifest(parity={"passed": True, "rows": rows, "tolerance": {}})))["fine-tunable"]

    assert tag([ROW, *GRADIENTS]) == "true"
    assert tag([ROW]) == "false"
    failed = manifest()
    failed["parity"]["rows"][-1]["passed"] = False
    assert dict(card_tags(failed))["fine-tunable"] == "false"


def test_a_synthetic_model_says_so_wherever_someone_may_begin_to_read():
    card = model_card(synthetic())
    sentence, _ = parse(card)
    assert sentence.startswith("SYNTHETIC WEIGHTS")
    sections = dict(part.split("\n", 1) for part in card.split("\n## ")[1:])
    for title in ("Overview", "Intended use and limits", "Use", "Provenance", "Licence and citation"):
        assert "synthetic" in sections[title].lower(), title


THREE = dict.fromkeys(("serving_default", "serving_image", "serving_image_bytes"), TENSORS)
NEEDS = {"tensorflow": "2.21.0", "minimum_tensorflow": "2.14"}
TRAINED = "## Parity with the trained model: passed"
SAME = "the source model with the same checkpoint"
OTHER = Preprocessing(resize=333, crop=320, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.5))
CLAIMS = {
    "what a user needs": (
        manifest(),
        [
            "8,010 parameters",
            "| `serving_default` | `inputs` float32 [B, 48, 48, 3] | `logits` float32 [B, 10] |",
            "shorter side to 50 pixels",
            "[123.675, 116.28, 103.53]",
            f"mkdir {NAME} && tar -xzf {NAME}.tar.gz -C {NAME}",
            *(f'tf.saved_model.load("{NAME}")', "hub.load", "hub.KerasLayer", "TFSMLayer"),
            *("ab" * 32, "`tiny.pth.tar`", "| onnx-tf | 1.10.0 |", SAME),
            "[MIT](https://github.com/locuslab/convmixer/blob/main/LICENSE)",
            "@article{trockman2022patches",
        ],
        ["private", "its weights are", "SYNTHETIC", "image signatures", "serving_image_bytes"],
    ),
    "image signatures": (
        manifest(signatures=THREE, versions=NEEDS),
        [
            "It needs TensorFlow 2.14 or newer.",
            "The image signatures do this themselves.",
            '["serving_image_bytes"](image_bytes=tf.constant(files))["probabilities"]',
        ],
        [],
    ),
    "other preprocessing": (manifest(preprocessing=OTHER), ["333 pixels", "320 x 320", "[4, 5, 6.5]"], []),
    "official": (
        official(),
        [
            *("80.16 %", f"<{VARIANTS['convmixer_768_32'].sources[0].url}>", "model and its weights are"),
            *("To classify photographs", "were not measured here"),
        ],
        [],
    ),
    "features": (official(head="fe"), ["transfer learning", "were not measured here"], ["80.16"]),
    "custom": (official(weights="custom"), [], ["80.16"]),
    "synthetic": (
        official(name=f"{NAME}_synthetic", weights="synthetic"),
        ["recognise nothing"],
        ["80.16", "classify photographs"],
    ),
    "no gradients": (
        manifest(parity={"passed": True, "tolerance": {}, "rows": [ROW]}),
        ["not called fine-tunable"],
        ["can be fine-tuned"],
    ),
    "fine-tuned": (
        manifest(training=TRAINING),
        [
            "| history: val_accuracy | 0.9321 in epoch 2 of 3, the one that was kept |",
            "| history: loss | 0.3 in epoch 2 of 3, the one that was kept |",
            *(
                "| dataset | digits |",
                TRAINED,
                "the model as it was trained",
                "computes what the trained model computed",
            ),
        ],
        [SAME, "accuracy, robustness"],
    ),
    "fine-tuned from synthetic weights": (
        synthetic(training=TRAINING),
        ["SYNTHETIC WEIGHTS", "fine-tuned from random weights"],
        ["recognises nothing", "recognise nothing"],
    ),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_the_card_claims_what_is_known_and_no_more_beside_the_tarball_and_in_it(case):
    made, claimed, not_claimed = CLAIMS[case]
    for card in (model_card(made), model_card(packed_manifest(made))):
        assert [text for text in claimed if text not in card] == []
        assert [text for text in not_claimed if text in card] == []


def test_the_card_beside_the_tarball_has_the_figures_and_the_one_inside_says_where_they_are():
    card, inside = model_card(manifest()), model_card(packed_manifest(manifest()))
    for figures in (
        "worst relative error 5.5e-06, allowed 1e-04",
        "| logits | noise | 8 | 1.1e-06 |  |  | 3.2e-06 | 100.0% | 97.5% | 1e-05 |",
        "| gradients, worst of 3 | noise | 3 | 5.5e-06 |",
    ):
        assert figures in card
        assert figures not in inside
    assert f"`{NAME}.json`" in inside


def test_the_card_tells_of_files_beside_the_tarball_and_not_in_it():
    made = manifest() | BESIDE
    assert f'model = keras.saving.load_model("{NAME}.keras")' in model_card(made)
    assert f'session = onnxruntime.InferenceSession("{NAME}.onnx")' in model_card(made)
    assert ".keras" not in model_card(manifest() | {"onnx": BESIDE["onnx"]})
    assert ".onnx" not in model_card(manifest() | {"keras": BESIDE["keras"]})
    assert model_card(packed_manifest(made)) == model_card(packed_manifest(manifest()))


def test_the_card_s_code_is_python():
    blocks = model_card(manifest(signatures=THREE) | BESIDE).split("```python\n")[1:]
    assert len(blocks) == 6
    for block in blocks:
        compile(block.split("```")[0], "card", "exec")
