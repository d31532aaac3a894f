"""Exporters: a source model becomes a TensorFlow function on variables, then a reusable SavedModel.

In: a PyTorch module or a JAX function, and arrays. Out: a SavedModel folder, and the way back from one.
Not here: the name of any model, except in the plain ones; whether the export is right.
"""
