"""A training step in each framework: forward, mean cross-entropy of the batch, gradients, update.

What is trained and how it predicts, the caller says; a step takes images, float32 [B, H, W, 3], and labels, int64 [B],
and gives the loss before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Step = Callable[[np.ndarray, np.ndarray], float]


def tensorflow_step(
    predict: Callable, variables: Sequence[Any], learning_rate: float, momentum: float, jit_compile: bool = False
) -> Step:
    """Of tf_keras's SGD, in one `tf.function`."""
    import tensorflow as tf
    import tf_keras

    optimizer = tf_keras.optimizers.SGD(learning_rate, momentum=momentum)
    optimizer.build(variables)

    @tf.function(autograph=False, jit_compile=jit_compile)
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, predict(images)))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return lambda images, labels: float(step(tf.constant(images), tf.constant(labels)))


def torch_step(predict: Callable, optimizer: Any) -> Step:
    """`predict` takes NCHW, as a view of NHWC."""
    import torch

    def step(images: np.ndarray, labels: np.ndarray) -> float:
        inputs = torch.from_numpy(images).permute(0, 3, 1, 2)
        loss = torch.nn.functional.cross_entropy(predict(inputs), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


class JaxStep:
    """In one `jax.jit` that reuses the memory of what it replaces.

    predict: `(trained, fixed, images)` -> logits. trained: the arrays as they are by now, by name; fixed: those that
    stay. optimizer: one of optax's.
    """

    def __init__(
        self, predict: Callable, trained: Mapping[str, Any], optimizer: Any, fixed: Mapping[str, Any] | None = None
    ) -> None:
        import jax
        import optax

        self.trained, self._fixed = ({k: jax.numpy.array(v) for k, v in (x or {}).items()} for x in (trained, fixed))
        self._state = optimizer.init(self.trained)

        def loss_of(trained: dict, fixed: dict, images: jax.Array, labels: jax.Array) -> jax.Array:
            logits = predict(trained, fixed, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        def update(trained: dict, state: Any, fixed: dict, images: jax.Array, labels: jax.Array) -> tuple:
            loss, gradients = jax.value_and_grad(loss_of)(trained, fixed, images, labels)
            changes, state = optimizer.update(gradients, state)
            return optax.apply_updates(trained, changes), state, loss

        self._update = jax.jit(update, donate_argnums=(0, 1))

    def __call__(self, images: np.ndarray, labels: np.ndarray) -> float:
        """One step, to its end."""
        self.trained, self._state, loss = self._update(self.trained, self._state, self._fixed, images, labels)
        next(iter(self.trained.values())).block_until_ready()
        return float(loss)
