"""The classification notebook by papermill: several models, an odd photograph, a full-size one of each family."""

import json

import extractors
import pytest
from notebooks import assert_stops, run, text_of
from PIL import Image

from utils.images.photographs import sample_photographs

NOTEBOOK = "classification.ipynb"


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Tarballs of a tiny classifier and a tiny feature extractor, made by the conversion notebooks."""
    folder = tmp_path_factory.mktemp("converted")
    run("conversion_convmixer.ipynb", folder, variant="convmixer_tiny", checkpoint="synthetic", image_size=48)
    tiny = {"variant": "mixer_tiny", "checkpoint": "synthetic", "image_size": 48}
    run("conversion_mlpmixer.ipynb", folder, **tiny)
    run("conversion_mlpmixer.ipynb", folder, **tiny, head="fe", operations="plain")
    return folder / "exports"


def written_in(folder):
    return json.loads((folder / "exports" / "classification.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_several_models_see_the_same_photograph(exports, tmp_path):
    names = ["convmixer_tiny_classification_synthetic", "mixer_tiny_classification_synthetic"]
    models = [exports / f"{names[0]}.tar.gz", exports / names[1], exports / "mixer_tiny_fe_plain_synthetic.tar.gz"]
    models += [extractors.published("convmixer native").folder.with_suffix(".keras")]
    exif = Image.Exif()
    exif[0x0112] = 8
    photograph = tmp_path / "held upright.jpg"
    sample_photographs()["rocket"].save(photograph, exif=exif)
    executed = run(NOTEBOOK, tmp_path, model=", ".join(map(str, models)), image=str(photograph), top_k=3)
    written = written_in(tmp_path)
    assert written["image"] == "held upright"
    assert list(written["models"]) == names
    for found in written["models"].values():
        assert found["milliseconds"] > 0
        probabilities = [each["probability"] for each in found["best"]]
        assert len(probabilities) == 3
        assert probabilities == sorted(probabilities, reverse=True)
    shown = text_of(executed)
    assert "427 x 640 pixels" in shown  # turned
    assert "SYNTHETIC WEIGHTS" in shown
    assert shown.count("image/png") == 3  # the photograph, the bars, the similarities
    assert "logits, probabilities; largest difference" in shown
    assert '"name": "stderr"' not in shown


def test_a_feature_extractor_alone_is_enough(exports, tmp_path):
    executed = run(NOTEBOOK, tmp_path, model=str(exports / "mixer_tiny_fe_plain_synthetic.tar.gz"))
    assert text_of(executed).count("image/png") == 2
    assert "features; largest difference" in text_of(executed)


@pytest.mark.slow
def test_a_keras_file_alone_is_enough(tmp_path):
    executed = run(NOTEBOOK, tmp_path, model=str(extractors.published("mixer native").folder.with_suffix(".keras")))
    assert text_of(executed).count("image/png") == 2
    assert "Only .keras files were chosen" in text_of(executed)
    assert '"name": "stderr"' not in text_of(executed)


@pytest.mark.slow
def test_what_cannot_be_is_a_clear_error(tmp_path):
    assert_stops(NOTEBOOK, tmp_path, "Convert one first", model="nowhere.tar.gz")


@pytest.mark.parametrize(
    ("notebook", "variant"),
    [("conversion_convmixer.ipynb", "convmixer_768_32"), ("conversion_mlpmixer.ipynb", "mixer_b16_i1k")],
)
@pytest.mark.slow
def test_a_full_size_model_names_its_classes(tmp_path, full_size, notebook, variant):
    folder, _ = full_size(notebook, variant)
    name = f"{variant}_classification_synthetic"
    run(NOTEBOOK, tmp_path, model=str(folder / "exports" / f"{name}.tar.gz"))
    best = written_in(tmp_path)["models"][name]["best"]
    assert len(best) == 5
    assert not any(each["name"].startswith("class ") for each in best)
