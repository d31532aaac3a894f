"""From official checkpoint to verified SavedModel. Importing this imports no framework, and no module below.

The wings, in the order in which a model passes through:

families      the variants, and each family's facts, source model and ways to other frameworks; every room asks them
checkpoints   fetch, local file or synthetic weights -> a flat dict of checked arrays
export        source model -> TensorFlow function and variables -> reusable SavedModel
images        photograph -> what a model takes; what it gives -> names
parity        callables and arrays -> how far from the truth, and whether that passes
artefact      tarball, manifest and model card; opening them again
verify        the command for downloads; TensorFlow is enough
smaller       the command for TFLite files
training      a feature extractor and a new head, trained in either Keras
evaluate      the command that counts right answers
release       the command for what a release holds beside its artefacts
batch         the command for many conversions
notebook      what notebooks show, and how they are run
machine       devices, memory, time

Beside them lie `settings` and `conversion`, the pipeline once; what all may use: `errors`, which are for people,
`files`, written whole or not at all, `tables` and `command`; and the commands `convert` (one conversion), `publish` and
`serving_client` (a client of TensorFlow Serving, to copy).
"""
