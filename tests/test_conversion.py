"""The Python call: the whole pipeline in one process."""

import numpy as np
import pytest
import tiny

from utils.conversion import Conversion, convert
from utils.errors import ParityError
from utils.settings import Settings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file"), [("convmixer_tiny", "convmixer_tiny.timm.pth.tar"), ("mixer_tiny", "mixer_tiny.npz")]
)
def test_converted_model_computes_what_upstream_computed(tmp_path, name, file):
    import tensorflow as tf

    published = convert(name, checkpoint=str(tiny.GOLDEN / file), output_dir=str(tmp_path))
    golden = tiny.expected(name)
    found = tf.saved_model.load(str(published.folder))(golden["inputs"]).numpy()
    assert np.abs(found - golden["logits"]).max() <= 1e-5 * np.abs(golden["logits"]).max()
    assert published.tarball.is_file()
    assert published.manifest.is_file()


@pytest.mark.slow
def test_nothing_is_published_that_was_not_compared(tmp_path):
    conversion = Conversion(Settings("convmixer_tiny", checkpoint="synthetic", output_dir=str(tmp_path)))
    conversion.check()
    conversion.load()
    conversion.export()
    conversion.save()
    with pytest.raises(ParityError, match="was not compared"):
        conversion.publish()
    assert list(tmp_path.iterdir()) == []
