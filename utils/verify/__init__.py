"""Verification of downloads: `python -m utils.verify FILE ...`, or all of it as one file (`app`).

In: tarballs, folders, .tflite, .keras and .onnx files, sums. Out: a verdict for each, with reasons.
Not here: what needs more than Python's own library, NumPy and TensorFlow, or ONNX Runtime.
"""
