"""Artefacts: folder, tarball, manifest and model card of a converted model, published all together or not at all.

In: a SavedModel folder and what is known of it. Out: the published files; and an artefact, checked, from such files.
Not here: how a model is converted or compared.
"""
