"""Fine-tuning: labelled images and a published feature extractor become a classifier of one's own.

In: images, an artefact, settings. Out: a published classifier, and pictures of how training went.
"""
