"""The conversion notebooks by papermill: from golden and full-size files to tarballs, and what must stop them."""

import json

import notebooks
import pytest
import tiny

from utils.export import saved_model
from utils.families.mlp_mixer.source import without_influence
from utils.families.variants import artefact_name

CONVMIXER, MIXER = "conversion_convmixer.ipynb", "conversion_mlpmixer.ipynb"
GELU, RELU = tiny.NAMES


# Each family's two heads, key layouts and kinds of operations: a notebook takes seconds, and tests of the parts have
# the other pairs.
@pytest.mark.parametrize(
    ("notebook", "variant", "head", "file", "settings"),
    [
        (CONVMIXER, GELU, "classification", f"{GELU}.timm.pth.tar", {}),
        (CONVMIXER, RELU, "fe", f"{RELU}.sequential.pth.tar", {}),
        (MIXER, "mixer_tiny", "classification", "mixer_tiny.npz", {"operations": "xla"}),
        (MIXER, "mixer_tiny", "fe", "mixer_tiny.npz", {"operations": "plain"}),
    ],
)
@pytest.mark.slow
def test_golden_checkpoint_computes_what_upstream_computed(tmp_path, notebook, variant, head, file, settings):
    given = {"variant": variant, "head": head, "checkpoint": str(tiny.GOLDEN / file), "image_size": 48} | settings
    executed = notebooks.run(notebook, tmp_path, **given)
    name = artefact_name(variant, head, "custom", settings.get("operations", "xla"))
    found = notebooks.assert_computes_what_upstream_computed(tmp_path, executed, name, variant, head)
    manifest, model = found
    rows = manifest["parity"]["rows"]
    # Every variable's gradient is compared, those that are rounding only with their kernels'.
    names = [saved_model.name_of(variable) for variable in model.trainable_variables]
    compared = {row["variable"] for row in rows if row["output"] == "gradients"}
    assert len(compared) == len(names) - sum(map(without_influence, names))
    assert ("moving statistics" in {row["output"] for row in rows}) == (notebook == CONVMIXER)
    assert ("stablehlo_version" in manifest["versions"]) == (settings.get("operations") == "xla")


@pytest.mark.slow
@pytest.mark.parametrize(("notebook", "variant"), [(CONVMIXER, "convmixer_768_32"), (MIXER, "mixer_b16_i1k")])
def test_full_size_checkpoint_is_converted_verified_and_classifies(tmp_path, notebook, variant):
    """As the notebooks stand: they find out themselves that official weights cannot be had here."""
    with notebooks.offline(tmp_path):
        executed = notebooks.run(notebook, tmp_path, variant=variant)
    name = f"{variant}_classification_synthetic"
    notebooks.assert_full_size(tmp_path, executed, name, variant)
    notebooks.run("classification.ipynb", tmp_path, model=str(tmp_path / "exports" / f"{name}.tar.gz"))
    written = json.loads((tmp_path / "exports" / "classification.json").read_text(encoding="utf-8"))
    best = written["models"][name]["best"]
    assert len(best) == 5
    assert not any(each["name"].startswith("class ") for each in best)


@pytest.mark.slow
def test_bad_file_is_an_error_that_names_it_and_nothing_is_executed(tmp_path):
    path = tmp_path / "bomb.pth.tar"
    path.write_bytes(b"cposix\nsystem\n(S'touch " + str(tmp_path / "exploded").encode() + b"'\ntR.")
    given = {"variant": GELU, "checkpoint": str(path), "image_size": 48}
    notebooks.assert_stops(CONVMIXER, tmp_path, "bomb.pth.tar", "CheckpointError", **given)
    assert not (tmp_path / "exploded").exists()
