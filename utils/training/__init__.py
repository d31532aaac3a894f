"""Fine-tuning: labelled images and a published feature extractor become a classifier of one's own.

In: images, an artefact, settings. Out: trained values, pictures of how it went, a function that `export` saves.
Not here: publishing, which the notebook does as for a conversion.
"""
