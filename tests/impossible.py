"""Settings of preprocessing that no image can be prepared with, and the word that says which it is."""

from utils.families.variants import Preprocessing

ZEROS, ONES = (0.0,) * 3, (1.0,) * 3
PREPROCESSING = [
    (Preprocessing(8, 9, ZEROS, ONES), "crop = 9"),
    (Preprocessing(8, 0, ZEROS, ONES), "crop = 0"),
    (Preprocessing(8, 8, ZEROS, (1.0, 0.0, 1.0)), "std"),
    (Preprocessing(8, 8, ZEROS, (1.0, float("inf"), 1.0)), "std"),
    (Preprocessing(8, 8, (0.0, float("nan"), 0.0), ONES), "mean"),
    (Preprocessing(8, 8, (0.0,), ONES), "std"),
    (Preprocessing(8, 8, (0.0,) * 4, (1.0,) * 4), "4 channels"),
    (Preprocessing(8, 8, (), ()), "mean"),
    (Preprocessing(8, 8, ZEROS, ONES, "lanczos9"), "lanczos9"),
]
