"""The classification notebook by papermill: several models, an odd photograph, no network."""

import json

import artefacts
import extractors
import notebooks
import pytest
from notebooks import run, text_of
from PIL import Image

from utils.export.signatures import image_signatures
from utils.families.variants import get_variant
from utils.images.photographs import sample_photographs
from utils.notebook import display

NOTEBOOK = "classification.ipynb"


def written_in(folder):
    return json.loads((folder / "exports" / "classification.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_several_models_see_the_same_photograph(tmp_path):
    signatures = image_signatures(get_variant("mixer_tiny").preprocessing)
    mixer = artefacts.publish(tmp_path / "published", "mixer_tiny", operations="plain", signatures=signatures)
    models = [mixer.tarball, extractors.published("synthetic").folder, extractors.published("convmixer").tarball]
    models += [extractors.published("convmixer native").folder.with_suffix(".keras")]
    exif = Image.Exif()
    exif[0x0112] = 8
    photograph = tmp_path / "held upright.jpg"
    sample_photographs()["rocket"].save(photograph, exif=exif)
    executed = run(NOTEBOOK, tmp_path, model=", ".join(map(str, models)), image=str(photograph), top_k=3)
    written = written_in(tmp_path)
    assert written["image"] == "held upright"
    assert list(written["models"]) == [mixer.folder.name, "convmixer_tiny_classification_synthetic"]
    for found in written["models"].values():
        assert found["milliseconds"] > 0
        probabilities = [each["probability"] for each in found["best"]]
        assert len(probabilities) == 3
        assert probabilities == sorted(probabilities, reverse=True)
    shown = text_of(executed)
    assert "427 x 640 pixels" in shown  # turned
    assert "SYNTHETIC WEIGHTS" in shown
    assert shown.count("image/png") == 3  # the photograph, the bars, the neighbours
    best = written["models"][mixer.folder.name]["best"][0]
    said = f"{best['name']}, {display.percent(best['probability'])}"
    for way in ("Keras 3", "TF Hub"):  # the same batch
        assert f"{way}: {said}" in shown
    assert f"TensorFlow alone: {best['name']}, " in shown


@pytest.mark.slow
def test_it_runs_as_it_stands_without_a_network(tmp_path):
    with notebooks.offline(tmp_path):
        shown = text_of(run(NOTEBOOK, tmp_path))
    assert "convmixer_tiny_classification_synthetic has random weights" in shown
    assert list(written_in(tmp_path)["models"]) == ["convmixer_tiny_classification_synthetic"]


@pytest.mark.slow
def test_the_keras_file_of_a_feature_extractor_alone_is_enough(tmp_path):
    executed = run(NOTEBOOK, tmp_path, model=str(extractors.published("mixer native").folder.with_suffix(".keras")))
    assert text_of(executed).count("image/png") == 2
    assert "This takes a SavedModel" in text_of(executed)
