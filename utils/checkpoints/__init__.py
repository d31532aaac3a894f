"""Checkpoints: downloaded, the user's own, or synthetic; read without executing what they hold.

In: a variant and where its weights are. Out: a complete dict of checked float32 arrays under canonical keys.
Not here: models, TensorFlow.
"""
