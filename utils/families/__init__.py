"""The families of models: which variants there are, and what is one family's alone.

A third family is one more folder like `convmixer`, an entry in `FAMILIES` and rows in `variants`.
"""

from utils.families import convmixer, mlp_mixer
from utils.families.base import Family

FAMILIES: dict[str, Family] = {each.FAMILY.name: each.FAMILY for each in (convmixer, mlp_mixer)}
