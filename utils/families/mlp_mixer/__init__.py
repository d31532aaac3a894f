"""MLP-Mixer: JAX checkpoints, and all that is this family's alone."""
