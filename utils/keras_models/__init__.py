"""Native Keras 3 models: one `.keras` file that loads without this project, on TensorFlow, JAX or PyTorch.

In: an architecture and its checked arrays, as `checkpoints` gives them. Out: a functional model of Keras's own layers,
its file, and what that computes on each backend, as `parity` compares it.
Not here: the sources, SavedModels, tf_keras; training.
"""
