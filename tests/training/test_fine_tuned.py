"""A fine-tuned artefact's name: from the extractor's and the data set's, and always one that may be published."""

import pytest
from manifests import manifest

from utils.training.fine_tuned import fine_tuned_name

NAMES = {
    ("convmixer_768_32_fe", "tf_flowers"): "convmixer_768_32_classification_tf_flowers",
    ("mixer_b16_i1k_fe_plain_synthetic", "digits"): "mixer_b16_i1k_classification_plain_digits_synthetic",
    ("convmixer_768_32_fe_synthetic", "digits"): "convmixer_768_32_classification_digits_synthetic",
    # A folder may be called as it likes; only the weights are synthetic, or not.
    ("convmixer_768_32_fe", "synthetic"): "convmixer_768_32_classification_synthetic_images",
    ("convmixer_768_32_fe", "my synthetic"): "convmixer_768_32_classification_my_synthetic_images",
    ("convmixer_768_32_fe", "synthetic_int8"): "convmixer_768_32_classification_synthetic_int8_images",
    ("convmixer_768_32_fe_synthetic", "synthetic"): "convmixer_768_32_classification_synthetic_images_synthetic",
    ("convmixer_768_32_fe", "Blumen (größere)/"): "convmixer_768_32_classification_Blumen_gr_ere",
    ("convmixer_768_32_fe", "花"): "convmixer_768_32_classification_images",
    ("convmixer_768_32_fe", "x" * 33 + " synthetic"): f"convmixer_768_32_classification_{'x' * 33}_synthe",
}


@pytest.mark.parametrize(("extractor", "dataset"), NAMES)
def test_the_name_is_one_that_a_manifest_may_have(extractor, dataset):
    name = fine_tuned_name(extractor, dataset)
    assert name == NAMES[extractor, dataset]
    weights = "synthetic" if "_fe_synthetic" in extractor or "plain_synthetic" in extractor else "custom"
    assert manifest(name=name, weights=weights)["name"] == name
