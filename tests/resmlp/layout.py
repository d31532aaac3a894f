"""Keys and shapes, PyTorch's."""

from utils.families.base import NoMatchError, Place

MARKS = {"timm": (frozenset({"blocks.0.norm1.alpha"}),)}


def shapes(a):
    found = {"stem.weight": (a.dim, 3, a.patch_size, a.patch_size), "stem.bias": (a.dim,)}
    for block in (f"blocks.{i}" for i in range(a.depth)):
        found |= {f"{block}.{name}": (a.dim,) for name in ("scale1", "scale2")}
        found |= {f"{block}.{norm}.{part}": (a.dim,) for norm in ("norm1", "norm2") for part in ("alpha", "beta")}
        for layer, (out, into) in {
            "tokens": (a.tokens, a.tokens),
            "channels.0": (4 * a.dim, a.dim),
            "channels.2": (a.dim, 4 * a.dim),
        }.items():
            found |= {f"{block}.{layer}.weight": (out, into), f"{block}.{layer}.bias": (out,)}
    return found | {
        "norm.alpha": (a.dim,),
        "norm.beta": (a.dim,),
        "head.weight": (a.classes, a.dim),
        "head.bias": (a.classes,),
    }


def places(layout, headers):
    return {key: Place(key) for key in headers}


def architecture(shapes):
    raise NoMatchError("only its row")


def match(modules):
    raise NoMatchError("no")
