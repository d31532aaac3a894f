"""Notebooks: their parameters, where they run, and what they show.

In: parameters as a person typed them. Out: checked ones, an executed notebook, pictures and tables.
Not here: what the notebooks tell, which stands in them.
"""
