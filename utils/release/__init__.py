"""Releases: `python -m utils.release FOLDER`.

In: a folder of artefacts, or the indices of several. Out: model cards, index, table, page and sums, which the same
artefacts always give byte for byte, so that they may be written again at any time.
Not here: the artefacts themselves.
"""
