"""Smaller files of published artefacts: `python -m utils.smaller ARTEFACT ...`.

In: published artefacts. Out: TFLite models of classifiers, measured before they are published.
Not here: source frameworks and their checkpoints.
"""
