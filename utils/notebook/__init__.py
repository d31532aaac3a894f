"""Notebooks: their parameters, where they run, what they show, and the files that they leave beside a SavedModel.

In: parameters as a person typed them. Out: checked ones, an executed notebook, pictures and tables, files.
Not here: what the notebooks tell, which stands in them.
"""
