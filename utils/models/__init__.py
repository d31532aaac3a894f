"""The models: which there are, and what they compute in their own frameworks.

In: nothing; arrays of weights from `checkpoints`. Out: rows of the table, and source models in PyTorch and Flax.
Not here: TensorFlow, files, anything that converts.
"""
