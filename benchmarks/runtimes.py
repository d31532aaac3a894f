"""What Colab had in its runtimes, of what the notebooks use and what that needs in turn.

From pip-freeze.txt and os-info.txt of https://github.com/googlecolab/backend-info, at the commit given for each. Its
torch is PyTorch's CPU or CUDA build of that version, as the runtime has an accelerator or not.
"""

from __future__ import annotations

from typing import NamedTuple


class Runtime(NamedTuple):
    """Which Python, such as "3.13", and pip's requirements."""

    python: str
    requirements: list[str]


_PYTHON = {
    "2026.01": "3.12",  # bd8aaa4580401a7fbf96a52fab5a7acf96f50b73
    "2026.07": "3.12",  # ec53f93fe44a9cab118dc5451527b18e36e1a643
    # The first with Python 3.13 on Ubuntu 24.04. What everybody gets has no name until it can be chosen as a past one.
    "2026-09-04": "3.13",  # f14042477cce6487b65eb419661bdf0375610a3f
}
# In these runtimes, in this order; None is what one of them lacks. The frameworks come first: where two of the newest
# do not go together, pip keeps what it is asked for first.
# fmt: off
_VERSIONS = {
    "tensorflow": ("2.19.0", "2.20.0", "2.20.0"),
    "torch": ("2.9.0", "2.11.0", "2.11.0"),
    "jax": ("0.7.2", "0.7.2", "0.11.1"),
    "jaxlib": ("0.7.2", "0.7.2", "0.11.1"),
    "flax": ("0.11.2", "0.11.2", "0.11.2"),
    "keras": ("3.10.0", "3.13.2", "3.13.2"),
    "tf_keras": ("2.19.0", "2.20.0", "2.20.1"),
    "tensorflow-hub": ("0.16.1", "0.16.1", "0.16.1"),
    "pip": ("24.1.2", "24.1.2", "24.1.2"),
    "setuptools": ("75.2.0", "75.2.0", "80.10.2"),
    "wheel": ("0.45.1", "0.47.0", "0.48.0"),
    "packaging": ("25.0", "26.2", "26.3"),
    "typing_extensions": ("4.15.0", "4.16.0", "4.16.0"),
    "numpy": ("2.0.2", "2.0.2", "2.1.3"),
    "scipy": ("1.16.3", "1.16.3", "1.16.3"),
    "protobuf": ("5.29.5", "5.29.6", "5.29.6"),
    "ml_dtypes": ("0.5.4", "0.5.4", "0.6.0"),
    "absl-py": ("1.4.0", "1.4.0", "1.4.0"),
    "h5py": ("3.15.1", "3.16.0", "3.16.0"),
    "tensorflow-probability": ("0.25.0", "0.25.0", "0.25.0"),
    "tensorflow-datasets": ("4.9.9", "4.9.10", "4.9.10"),
    "tensorflow-metadata": ("1.17.3", "1.21.0", "1.21.0"),
    "array_record": ("0.8.3", "0.8.3", "0.8.3"),
    "importlib_resources": ("6.5.2", "7.1.0", None),
    "optax": ("0.2.6", "0.2.8", "0.2.8"),
    "orbax-checkpoint": ("0.11.31", "0.12.1", "0.12.4"),
    "tensorstore": ("0.1.80", "0.1.84", "0.1.85"),
    "scikit-learn": ("1.6.1", "1.6.1", "1.6.1"),
    "safetensors": ("0.7.0", "0.8.0", "0.8.0"),
    "huggingface_hub": ("0.36.0", "1.23.0", "1.29.0"),
    "pillow": ("11.3.0", "11.3.0", "11.3.0"),
    "matplotlib": ("3.10.0", "3.10.0", "3.10.0"),
    "PyYAML": ("6.0.3", "6.0.3", "6.0.3"),
    "pooch": ("1.8.2", "1.9.0", "1.9.0"),
    "requests": ("2.32.4", "2.32.4", "2.32.4"),
    "tqdm": ("4.67.1", "4.67.3", "4.67.3"),
    "psutil": ("5.9.5", "5.9.5", "5.9.5"),
    "ipykernel": ("6.17.1", "6.17.1", "6.17.1"),
    "ipython": ("7.34.0", "7.34.0", "7.34.0"),
    "ipywidgets": ("7.7.1", "7.7.1", "7.7.1"),
    "traitlets": ("5.7.1", "5.7.1", "5.7.1"),
    "jupyter_client": ("7.4.9", "7.4.9", "7.4.9"),
    "nbconvert": ("7.16.6", "7.17.1", "7.17.1"),
}
# fmt: on
RUNTIMES = {
    name: Runtime(python, [f"{package}=={found[i]}" for package, found in _VERSIONS.items() if found[i]])
    for i, (name, python) in enumerate(_PYTHON.items())
}
# What Colab may have one day: the newest of everything that its last one has, a setuptools without pkg_resources too.
RUNTIMES["newest"] = Runtime("3.13", [package for package, found in _VERSIONS.items() if found[-1]])
