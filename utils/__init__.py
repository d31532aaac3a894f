"""From official checkpoint to verified SavedModel. Importing this imports no framework, and no module below.

What each module knows, in the order in which a model passes through:

variants                    the table of models, and the names of artefacts; everything reads it
checkpoints                 fetch, local file or synthetic weights -> a flat dict of checked arrays
convmixer, mlp_mixer        the source models, in PyTorch and in Flax
onnx_tf_export, jax_export  source model -> TensorFlow function and variables; they know no model
saved_model                 the reusable SavedModel's interface; saving and loading
warmup                      the requests that TensorFlow Serving starts with
golden                      small inputs and the source's outputs, which ride in every artefact
packaging                   tarball, manifest and model card
parity                      callables and arrays -> how far apart they are, and whether that passes
references                  what the source framework computed, for all who compare with it
photographs                 image files -> arrays by Pillow, the reference of preprocessing
preprocessing               the same as a TensorFlow graph, which image_signatures puts into the SavedModel
published                   manifest and hashes of what was published, checked for all who read it
pretrained, image_source    a model and an image from wherever they are; predictions runs the one on the other
serving_client              asks a model that TensorFlow Serving has
extractor                   a model to fine-tune, at the size of image that is trained on
datasets, batches           labelled images -> augmented batches for fine-tuning
keras_worlds, training      a feature extractor and a new head, trained in either Keras, resumable
fine_tuned                  the trained model -> what saved_model saves
measure                     seconds and peak memory of each stage
verify                      the command for downloads: hashes, signatures, golden numbers; TensorFlow is enough
smaller                     the command for float16 tarballs and TFLite files of published artefacts
release_matrix              every conversion that a release consists of
colab, hub_compat           what Colab lacks, and what tensorflow-hub misses there
convert                     the command around a conversion notebook, which execution runs
batch                       many conversions, each watched by supervision; then release: sums, index, cards, table
errors                      every error meant for the person who runs this
"""
