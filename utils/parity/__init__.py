"""Parity: how far callables and arrays are from the truth, and whether that passes.

In: functions of arrays, and arrays. Out: rows of figures, a report that can refuse, golden data.
Not here: frameworks, files of models, names of models.
"""
