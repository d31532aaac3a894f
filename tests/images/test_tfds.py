"""TensorFlow Datasets: whether a data set can be had here, without noise."""

import logging

from utils.images.tfds import is_within_reach


def test_a_data_set_that_was_never_prepared_is_no_reason_to_warn(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert not is_within_reach("tf_flowers", "http://127.0.0.1:9/nothing")
    assert caplog.messages == []
