"""Checkpoints of one's own: definitions that know nothing of this project's reader, and what becomes of their files."""
