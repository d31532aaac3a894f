"""Evaluation: `python -m utils.evaluate --model MODEL --data FOLDER` counts right answers.

In: an artefact, labelled photographs, the checkpoint if it is there. Out: top-1 and top-5 of both, as JSON and table.
Not here: anything that changes a model.
"""
