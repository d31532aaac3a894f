"""Many conversions: `python -m utils.batch`, or `make release`.

In: which variants, heads and operations. Out: their artefacts, each made by a process of its own, and a report.
Not here: how one is converted, which is `utils.convert` and its notebook.
"""
