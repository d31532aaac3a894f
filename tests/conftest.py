"""Order and environment of the test run; imports no framework, so that collecting stays fast."""

import os

# Read by TensorFlow when it is first imported, in notebooks' kernels too: its banner would hide what matters.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_collection_modifyitems(items):
    """Fast tests first: a fault that they show should not wait for the notebooks."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
