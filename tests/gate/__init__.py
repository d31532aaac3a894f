"""What the parity gate is tried on: checkpoints that nobody tuned to it, and faults that a converter can make."""
