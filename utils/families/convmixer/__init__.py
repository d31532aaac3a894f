"""ConvMixer: PyTorch checkpoints, and all that is this family's alone."""
