"""Releases: `python -m utils.release FOLDER`.

In: a folder of artefacts, with their latencies if these were measured, or the indices of several. Out: model cards,
index, table, page and sums, which the same input always gives byte for byte, so that they may be written again at any
time.
Not here: the artefacts themselves.
"""
