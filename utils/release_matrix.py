"""What a release consists of, one conversion a row: `python -m utils.release_matrix` prints it for the workflow."""

from __future__ import annotations

import json

from utils.variants import HEADS, OPERATIONS, VARIANTS, artefact_name


def release_matrix() -> list[dict[str, str]]:
    """Every variant that has official weights × head × kind of operations, as `include` of a GitHub Actions matrix.

    A ConvMixer has one kind of operations; its rows say "xla", which is the default and appears in no name.
    """
    return [
        {
            "name": artefact_name(variant.name, head, "official", operations),
            "variant": variant.name,
            "head": head,
            "operations": operations,
        }
        for variant in VARIANTS.values()
        if not variant.testing
        for operations in (OPERATIONS if variant.family == "mixer" else OPERATIONS[:1])
        for head in HEADS
    ]


if __name__ == "__main__":
    print(json.dumps({"include": release_matrix()}))
