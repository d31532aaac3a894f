"""Smaller files of published artefacts: `python -m utils.smaller ARTEFACT ...`.

In: published artefacts. Out: a tarball of float16 kernels, TFLite models; measured before they are published.
Not here: source frameworks and their checkpoints.
"""
