"""Images: from a photograph to what a model takes, and from what it gives to the names of classes.

In: files, addresses, pixels. Out: arrays by Pillow (the reference) and TensorFlow graphs (the same, exported).
Not here: models.
"""
