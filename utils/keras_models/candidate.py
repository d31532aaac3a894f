"""A Keras model in this process, arrays in and arrays out, as `utils.parity.proof` compares it with its source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.families import FAMILIES
from utils.families.base import KerasNames
from utils.keras_models import saving

if TYPE_CHECKING:
    import keras

Arrays = dict[str, np.ndarray]


def with_keras_variances(
    statistics: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray], count: int, passes: int = 1
) -> Arrays:
    """What PyTorch's statistics after training passes would be, had it Keras's variance of a batch.

    Both normalise by the variance over n. PyTorch moves its `running_var` towards the one over n - 1, Keras towards the
    one over n, on every backend, and no setting of a layer changes that. So both keep 0.9 of what was, and of what
    PyTorch adds, Keras adds (n - 1) / n.

    Args:
        statistics: by key, after the passes.
        before: the same before them.
        count: n, the number of values of a channel in each batch.
        passes: how many there were.
    """
    found = dict(statistics)
    for key, moved in statistics.items():
        if key.endswith("running_var"):
            stayed = saving.MOMENTUM**passes * before[key].astype(np.float64)
            found[key] = (stayed + (moved - stayed) * ((count - 1) / count)).astype(moved.dtype)
    return found


class Conventions:
    """Keras's axis order and its variances, whatever process computes the candidate."""

    def __init__(self, keys: KerasNames) -> None:
        self._keys = keys

    def to_export_layout(self, name: str, array: np.ndarray) -> np.ndarray:
        """The source's array of that name, in Keras's axis order."""
        return self._keys.to_export_layout(name, array)

    def expected_statistics(
        self, statistics: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray], count: int
    ) -> Arrays:
        """See `with_keras_variances`."""
        return with_keras_variances(statistics, before, count)


class Candidate(Conventions):
    """A model that was loaded, or built, on the backend that this process runs."""

    def __init__(self, model: keras.Model, keys: KerasNames) -> None:
        super().__init__(keys)
        self.model, self._keras = model, saving.import_keras()

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Float32 [B, H, W, C] -> [B, units], in inference mode."""
        return self._numpy(self._without_gradients(inputs, training=False))

    def variables(self) -> Arrays:
        """Every variable, by its key in the checkpoint."""
        return {self._key(variable): self._numpy(variable) for variable in self.model.variables}

    def gradients(self, inputs: np.ndarray, training: bool = False) -> dict[str, np.ndarray | None]:
        """Of `sum(output ** 2) / batch` by every trainable variable, by key; None if the output does not depend on it.

        In training mode the model's own statistics are put back afterwards.
        """
        run = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[self._keras.backend.backend()]
        with self._kept(self.model.non_trainable_variables):
            found = run(self.model, inputs, training)
        pairs = zip(self.model.trainable_variables, found, strict=True)
        return {self._key(variable): None if g is None else self._numpy(g) for variable, g in pairs}

    def training_pass(self, inputs: np.ndarray) -> tuple[np.ndarray, Arrays]:
        """Output in training mode, and the statistics that it leaves, which are put back afterwards."""
        statistics = self.model.non_trainable_variables
        with self._kept(statistics):
            output = self._numpy(self._without_gradients(inputs, training=True))
            return output, {self._key(variable): self._numpy(variable) for variable in statistics}

    @contextmanager
    def scaled_variables(self, factor: Callable[[str], float]) -> Iterator[None]:
        """Inside, each variable is multiplied by the factor of its key."""
        changed = [variable for variable in self.model.variables if factor(self._key(variable)) != 1]
        with self._kept(changed):
            for variable in changed:
                variable.assign(self._numpy(variable) * np.float32(factor(self._key(variable))))
            yield

    def _without_gradients(self, inputs: np.ndarray, training: bool) -> Any:
        if self._keras.backend.backend() != "torch":
            return self.model(inputs, training=training)
        import torch

        with torch.no_grad():
            return self.model(inputs, training=training)

    @contextmanager
    def _kept(self, variables: list) -> Iterator[None]:
        before = [self._numpy(variable) for variable in variables]
        try:
            yield
        finally:
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)

    def _key(self, variable: keras.Variable) -> str:
        return self._keys.key_of(variable.path)

    def _numpy(self, tensor: Any) -> np.ndarray:
        return np.array(self._keras.ops.convert_to_numpy(tensor))  # a copy: PyTorch's would change with the tensor


def load_candidate(path: Path, family: str) -> Candidate:
    """The `.keras` file's model, as `saving.load`, to be called with arrays."""
    return Candidate(saving.load(path), FAMILIES[family].layout.KERAS_NAMES)


def _tensorflow(model: keras.Model, inputs: np.ndarray, training: bool) -> list:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(inputs, training=training) ** 2) / len(inputs)
    return tape.gradient(loss, [variable.value for variable in model.trainable_variables])


def _jax(model: keras.Model, inputs: np.ndarray, training: bool) -> list:
    import jax

    def loss(trainable: list, others: list) -> Any:
        outputs, _ = model.stateless_call(trainable, others, inputs, training=training)
        return (outputs**2).sum() / len(inputs)

    trainable, others = (
        [variable.value for variable in each] for each in (model.trainable_variables, model.non_trainable_variables)
    )
    return jax.jit(jax.grad(loss))(trainable, others)


def _torch(model: keras.Model, inputs: np.ndarray, training: bool) -> list:
    import torch

    loss = (model(inputs, training=training) ** 2).sum() / len(inputs)
    return list(
        torch.autograd.grad(loss, [variable.value for variable in model.trainable_variables], allow_unused=True)
    )
