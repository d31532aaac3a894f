"""Order, environment and shared models of the test run; imports no framework, so that collecting stays fast."""

import os
import shutil

import pytest

from utils.machine.devices import keep_triton_out

keep_triton_out()  # the tests import the frameworks in any order
# Read by TensorFlow when it is first imported, in notebooks' kernels too: its banner would hide what matters.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The servers of these tests are on this machine: a proxy, where there is one, does not know them.
for _name in ("no_proxy", "NO_PROXY"):
    os.environ[_name] = ",".join(filter(None, [os.environ.get(_name), "127.0.0.1"]))


def pytest_collection_modifyitems(items):
    """Fast tests first: a fault that they show should not wait for the notebooks."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """SavedModel folders of the tiny ConvMixers by (name, head, image_size), each written once and only read."""
    folder, kept = tmp_path_factory.mktemp("saved"), {}

    def get(name, head="classification", image_size=None):
        import tiny

        from utils.export.saved_model import save_model

        key = name, head, image_size
        if key not in kept:
            kept[key] = save_model(tiny.exported(*key), folder / f"{name}_{head}_{image_size}")
        return kept[key]

    return get


@pytest.fixture(scope="module")
def mixer_weights():
    """The golden Mixer's, by key."""
    import tiny

    return tiny.mixer_weights()


@pytest.fixture(scope="module")
def mixer_golden():
    """What upstream's own code computed with them."""
    import tiny

    return tiny.expected("mixer_tiny")


@pytest.fixture(scope="module")
def stand_in_conversions(tmp_path_factory):
    """Batches run no notebooks, and have a cache of their own, with the checkpoints in it."""
    import batches

    from utils.checkpoints.loading import resolve
    from utils.families.variants import get_variant

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches.command, "CONVERT", batches.STAND_IN)
        patch.setenv("PYTHONPATH", str(batches.ROOT))
        patch.setenv("MIXERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        for variant in ("mixer_tiny", "convmixer_tiny"):
            resolve(get_variant(variant), "synthetic", 0)
        yield


@pytest.fixture(scope="module")
def both_heads(stand_in_conversions, tmp_path_factory):
    """A batch's folder with both heads of a variant, only read."""
    import batches

    folder = tmp_path_factory.mktemp("made")
    assert batches.run(folder) == 0
    return folder


@pytest.fixture
def made(both_heads, tmp_path):
    """A copy of it."""
    return shutil.copytree(both_heads, tmp_path / "copy")


@pytest.fixture(scope="module")
def with_keras(stand_in_conversions, tmp_path_factory):
    """Both heads, and a `.keras` file of the features alone."""
    import batches

    folder = tmp_path_factory.mktemp("keras")
    assert batches.run(folder, "--heads", "classification") == 0
    assert batches.run(folder, "--heads", "fe", "--formats", batches.KERAS) == 0
    return folder
