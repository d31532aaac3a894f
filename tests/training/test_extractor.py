"""The extractor to fine-tune: at the size that is trained on; what cannot be one is refused with its reason."""

import extractors
import pytest

from utils.errors import ParameterError
from utils.training.extractor import open_extractor


@pytest.mark.parametrize(
    ("kind", "image_size", "crop", "resize"),
    [("convmixer", 0, 48, 50), ("convmixer", 48, 48, 50), ("convmixer any size", 64, 64, 67)],
)
def test_preprocessing_is_for_the_size_that_is_trained_at(kind, image_size, crop, resize):
    found = open_extractor(str(extractors.published(kind).folder), image_size)
    assert (found.preprocessing.crop, found.preprocessing.resize) == (crop, resize)


@pytest.mark.parametrize(
    ("kind", "image_size", "said"),
    [
        ("classifier", 0, r"is a classifier .* pass convmixer_tiny_fe"),
        ("xla", 64, r"takes images of 48 pixels only\. Use 0 or 48\."),
        ("convmixer", 64, r"takes images of 48 pixels only\. .* convert a ConvMixer with image_size = 0"),
        ("convmixer any size", 50, r"not a multiple of convmixer_tiny's patch of 4 pixels.* Use 48 or 52"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_what_to_do_instead(kind, image_size, said):
    with pytest.raises(ParameterError, match=said):
        open_extractor(str(extractors.published(kind).folder), image_size)
