"""The families of models: which variants there are, and all that is one family's alone.

A family is an object (`base.Family`), one folder here. No other room names one.
"""
