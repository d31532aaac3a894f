"""What the names and the order of a file's entries tell; what they leave open is refused, never guessed."""

from functools import partial

import numpy as np
import pytest
import torch

from own import definitions
from own.definitions import convmixer, flax_logits, flax_mixer, mixer, prefixed, replace, several
from own.opening import assert_computes, opened
from utils.checkpoints.loading import load_arrays
from utils.conversion import Conversion
from utils.errors import CheckpointError
from utils.settings import Settings

PT, SORTED, BOTH = ("pt",), ("safetensors",), ("pt", "safetensors")
UNITS, PRE_NORM = partial(convmixer, definitions.UNITS), partial(mixer, definitions.PRE_NORM)
SQUARE = {"hidden_dim": 16, "tokens_mlp_dim": 16, "channels_mlp_dim": 16}


def sort(state):
    """As torch.save(safetensors.torch.load_file(path)) leaves it."""
    return {key: state[key] for key in sorted(state)}


def reverse(state):
    return dict(reversed(state.items()))


def first(names, *parts):
    """The same names, registered in another order."""
    return {part: names[part] for part in parts} | names


def renamed(own, change):
    """The same model with its entries by other names, in the order of the numbers in them."""
    return replace(own, content={change(key): value for key, value in own.content.items()})


def in_one_list(own, lists, name, together):
    """Two lists of modules as one, in which they alternate, where the `together` list is in the file."""
    found, after = {}, {}
    for key, value in own.content.items():
        part, index, *rest = key.split(".")
        if part in lists:
            after[".".join([name, str(2 * int(index) + lists.index(part)), *rest])] = value
        else:
            found[key] = value
    after = dict(sorted(after.items(), key=lambda entry: int(entry[0].split(".")[1])))
    keys = list(found)
    at = next(i for i, key in enumerate(keys) if key.startswith(together))
    merged = list(found.items())[:at] + list(after.items()) + list(found.items())[at:]
    return replace(own, content=dict(merged))


CONV_LISTS = {"stem": "embed", "stem_norm": "embed_norm", "depthwise": "dws.{}", "pointwise": "pws.{}",
              "norm1": "dw_norms.{}", "norm2": "pw_norms.{}", "head": "head"}  # fmt: skip
IN_LISTS = partial(convmixer, CONV_LISTS, lists=True)
SEQUENTIAL = {"stem": "stem", "norm1": "b.{}.tok.0", "tokens1": "b.{}.tok.1", "tokens2": "b.{}.tok.3",
              "norm2": "b.{}.ch.0", "channels1": "b.{}.ch.1", "channels2": "b.{}.ch.3", "norm": "norm",
              "head": "head"}  # fmt: skip
POST_NORM = SEQUENTIAL | {"tokens1": "b.{}.tok.0", "tokens2": "b.{}.tok.2", "norm1": "b.{}.tok.3",
                          "channels1": "b.{}.ch.0", "channels2": "b.{}.ch.2", "norm2": "b.{}.ch.3"}  # fmt: skip
FLAT = SEQUENTIAL | {"norm1": "b.{}.norm1", "tokens1": "b.{}.token_fc1", "tokens2": "b.{}.token_fc2",
                     "norm2": "b.{}.norm2", "channels1": "b.{}.channel_fc1",
                     "channels2": "b.{}.channel_fc2"}  # fmt: skip
INTERLEAVED = first(FLAT, "stem", "norm1", "norm2", "tokens1", "channels1", "tokens2", "channels2")
WORDS = FLAT | {"norm1": "b.{}.ln_token", "norm2": "b.{}.ln_channel"}
IN_OUT = SEQUENTIAL | {"tokens1": "b.{}.mlp.0.lin_in", "tokens2": "b.{}.mlp.0.lin_out", "norm1": "b.{}.norm1",
                       "norm2": "b.{}.norm2", "channels1": "b.{}.mlp.1.lin_in",
                       "channels2": "b.{}.mlp.1.lin_out"}  # fmt: skip
MIXER_LISTS = {"stem": "stem", "norm1": "n1.{}", "tokens1": "tok.{}.0", "tokens2": "tok.{}.2", "norm2": "n2.{}",
               "channels1": "ch.{}.0", "channels2": "ch.{}.2", "norm": "norm", "head": "head"}  # fmt: skip
STEM_LAST = {"depthwise": "layers.{}.dw", "norm1": "layers.{}.bn1", "pointwise": "layers.{}.pw",
             "norm2": "layers.{}.bn2", "stem": "patch", "stem_norm": "patch_bn", "head": "fc"}  # fmt: skip
POINTWISE_FIRST = definitions.UNITS | {"pointwise": "blocks.{}.0", "norm2": "blocks.{}.2", "depthwise": "blocks.{}.3",
                                       "norm1": "blocks.{}.5"}  # fmt: skip
NO_ACTIVATION = definitions.UNITS | {"stem_norm": "stem.1", "norm1": "blocks.{}.spatial.1", "norm2": "blocks.{}.mix.1"}
LAST_BATCH_NORM = first(STEM_LAST | {"stem_norm": "norm"}, "stem", "depthwise", "norm1", "pointwise", "norm2")
STEM_LAYER_NORM = first(definitions.PRE_NORM | {"norm": "to_patches.1"}, "stem", "norm")

# Each converted once, and computed something else than its maker's model.
OPEN = {
    "no activation between neighbours of a Sequential": (BOTH, partial(convmixer, NO_ACTIVATION)),
    "pointwise before depthwise": (BOTH, partial(convmixer, POINTWISE_FIRST)),
    "last BatchNorm, none behind the stem": (BOTH, partial(convmixer, LAST_BATCH_NORM)),
    "norms in lists, the second first": (PT, partial(convmixer, first(CONV_LISTS, "stem", "stem_norm", "depthwise",
        "pointwise", "norm2", "norm1"), lists=True)),
    "norms in one list, convolutions in two": (PT, lambda: in_one_list(IN_LISTS(), ("dw_norms", "pw_norms"), "norms",
        "head")),
    "convolutions in one list, norms in two": (PT, lambda: in_one_list(IN_LISTS(), ("dws", "pws"), "convs",
        "dw_norms")),
    "lists, reversed": (PT, partial(convmixer, CONV_LISTS, lists=True, wrap=reverse)),
    "LayerNorm behind the stem, none at the end": (BOTH, partial(mixer, STEM_LAYER_NORM)),
    "norms behind MLPs in a Sequential": (BOTH, partial(mixer, POST_NORM)),
    "norms named for the other MLP": (PT, partial(mixer, first(WORDS, "stem", "norm2", "norm1"))),
    "second norm first": (PT, partial(mixer, first(FLAT, "stem", "norm2", "norm1"))),
    "second layer first": (PT, partial(mixer, first(FLAT, "stem", "norm1", "tokens2"), tokens_mlp_dim=9)),
    "interleaved and square": (BOTH, partial(mixer, INTERLEAVED, **SQUARE)),
    "in and out, sorted": (SORTED, partial(mixer, IN_OUT, image_size=8, hidden_dim=16, tokens_mlp_dim=16)),
    "square and sorted": (PT, partial(mixer, definitions.PRE_NORM, wrap=sort, **SQUARE)),
    "square and reversed": (PT, partial(mixer, wrap=reverse, **SQUARE)),
    "lists of a Mixer, the second first": (PT, partial(mixer, first(MIXER_LISTS, "stem", "tokens1", "tokens2",
        "channels1", "channels2", "norm2", "norm1"), lists=True)),
}  # fmt: skip

KNOWN = {
    "sorted, eleven blocks": (PT, partial(UNITS, dim=4, depth=11, classes=2, wrap=sort)),
    "reversed, eleven blocks": (PT, partial(UNITS, dim=4, depth=11, classes=2, wrap=reverse)),
    "flat, sorted": (PT, partial(convmixer, partial(definitions.paper, flat=True), dim=4, depth=11, wrap=sort)),
    "grey, stem registered last": (BOTH, partial(convmixer, STEM_LAST, channels=1, kernel_size=4)),
    "grey, one block": (BOTH, partial(UNITS, channels=1, kernel_size=4, depth=1)),
    "as many channels as features, a pixel each": (PT, partial(UNITS, patch_size=1, dim=3, size=(6, 6))),
    "lists": (PT, IN_LISTS),
    "Mixer, sorted": (PT, partial(PRE_NORM, blocks=11, wrap=sort)),
    "Mixer, norms in its Sequentials": (BOTH, partial(mixer, SEQUENTIAL)),
    "Mixer, last norm registered first": (BOTH, partial(mixer, first(definitions.PRE_NORM, "norm"))),
    "Mixer, second norm first, sorted": (SORTED, partial(mixer, first(FLAT, "stem", "norm2", "norm1"))),
    "Mixer, layers of both MLPs side by side": (BOTH, partial(mixer, FLAT)),
    "Mixer, interleaved": (BOTH, partial(mixer, INTERLEAVED)),
    "Mixer's lists": (PT, partial(mixer, MIXER_LISTS, lists=True)),
    "Mixer's lists, square": (PT, partial(mixer, MIXER_LISTS, lists=True, **SQUARE)),
}  # fmt: skip


def trials(table):
    return pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, row in table.items() for kind in row[0]])


def read(path, **settings):
    """Variant, arrays and notes, without a source model."""
    conversion = Conversion(Settings("own", checkpoint=str(path), **settings))
    conversion.check()
    loaded = load_arrays(conversion._reading)
    return conversion, loaded


@trials(OPEN)
def test_what_may_be_another_model_is_refused(tmp_path, name, kind):
    own = OPEN[name][1]()
    with pytest.raises(CheckpointError):
        read(own.save(tmp_path, kind), **own.settings)


@trials(KNOWN)
def test_what_names_or_order_tell_is_read(tmp_path, name, kind):
    own = KNOWN[name][1]()
    path = own.save(tmp_path, kind)
    if isinstance(own.sizes, definitions.ConvMixerArchitecture):
        assert_computes(opened(path, **own.settings), own.inputs, own.outputs)
        return
    conversion, loaded = read(path, **own.settings)
    assert conversion.variant.architecture == own.sizes
    found = flax_logits(loaded.arrays, own.inputs, own.sizes)  # JAX would compile for longer
    assert np.abs(found - own.outputs).max() <= 1e-6 * np.abs(own.outputs).max()


def test_reference_settles_a_doubt_about_the_only_reading(tmp_path):
    own = convmixer(NO_ACTIVATION)  # a ModuleList whose forward has the activation between
    path = own.save(tmp_path, "pt")
    np.savez(tmp_path / "reference.npz", inputs=own.inputs[:, :16, :16], outputs=own.outputs.astype(np.float32))
    with pytest.raises(CheckpointError):
        opened(path, reference=str(tmp_path / "reference.npz"), **own.settings)
    own = convmixer(NO_ACTIVATION, size=(16, 16))
    np.savez(tmp_path / "reference.npz", inputs=own.inputs, outputs=own.outputs.astype(np.float32))
    assert_computes(opened(path, reference=str(tmp_path / "reference.npz"), **own.settings), own.inputs, own.outputs)


# More models in one file.


def joined(**models):
    return {f"{name}.{key}": value for name, own in models.items() for key, value in own.content.items()}


@pytest.mark.parametrize("as_sets", [False, True])
def test_model_of_unknown_names_beside_one_of_known_names_is_seen(tmp_path, as_sets):
    student, teacher = UNITS(seed=1), convmixer(definitions.TIMM, seed=2)
    content = {"student": student.content, "teacher": teacher.content}
    path = replace(student, content=content if as_sets else joined(student=student, teacher=teacher)).save(
        tmp_path, "pt"
    )
    with pytest.raises(CheckpointError, match=r"(?s)student.*teacher|teacher.*student"):
        read(path)
    for name, own in (("student", student), ("teacher", teacher)):
        assert_computes(opened(path, weights=name, **own.settings), own.inputs, own.outputs)


def test_two_families_in_a_file_are_two_models(tmp_path):
    a, b = UNITS(), PRE_NORM()
    path = replace(a, content=joined(a=a, b=b)).save(tmp_path, "pt")
    with pytest.raises(CheckpointError, match="weights"):
        read(path)
    for family, weights in (("mixer", "auto"), (None, "b")):
        conversion = Conversion(Settings("own", checkpoint=str(path), weights=weights), family)
        conversion.check()
        assert conversion.variant.architecture == b.sizes


def test_head_of_another_model_is_not_taken(tmp_path):
    timm = {seed: convmixer(definitions.TIMM, seed=seed) for seed in (1, 2)}

    def parts(name, own, head=True):
        return {
            f"{name}.{'fc' if key.startswith('head') else 'backbone'}.{key.removeprefix('head.')}": value
            for key, value in own.content.items()
            if head or not key.startswith("head")
        }

    path = replace(timm[1], content=parts("student", timm[1]) | parts("teacher", timm[2])).save(tmp_path, "pt")
    for name, own in (("student", timm[1]), ("teacher", timm[2])):
        assert_computes(opened(path, weights=name, **own.settings), own.inputs, own.outputs)
    path = replace(timm[1], content=parts("student", timm[1]) | parts("teacher", timm[2], head=False)).save(
        tmp_path, "pt"
    )
    with pytest.raises(CheckpointError, match="head"):
        read(path, weights="teacher")


def test_moving_average_is_not_overruled_by_a_name(tmp_path):
    path = several(partial(convmixer, depth=1), ("model", "model_ema"), 0).save(tmp_path, "pt")
    with pytest.raises(CheckpointError, match="use_ema"):
        read(path, weights="model", use_ema=True)


@pytest.mark.parametrize("key", ["ema_state_dict", "EMA", "ema-model", "model_swa", "modelEma", "moving_average"])
def test_moving_average_is_known_by_its_name(tmp_path, key):
    own = several(partial(convmixer, depth=1), ("net", key), 0)
    assert_computes(opened(own.save(tmp_path, "pt"), **own.settings), own.inputs, own.outputs)


@pytest.mark.parametrize("make", [UNITS, PRE_NORM])
@pytest.mark.parametrize("extra", ["criterion.weight", "loss_fn.weight", "criterion.centers.weight"])
def test_loss_beside_the_layers_of_a_model_is_left_out(tmp_path, make, extra):
    own = make()
    content = own.content | {extra: torch.ones(5, 12) if "centers" in extra else torch.ones(5)}
    conversion, loaded = read(replace(own, content=content).save(tmp_path, "pt"))
    assert getattr(conversion.variant.architecture, "depth", 2) == 2
    assert any(extra in note for note in loaded.notes)


def test_flax_model_of_unknown_names_is_assumed_to_have_flaxs_activation_and_epsilon(tmp_path):
    def change(key):
        for old, new in (("stem", "embed"), ("MixerBlock_", "layers_"), ("_mixing", ""), ("pre_head_layer_", "")):
            key = key.replace(old, new)
        return key

    own = renamed(flax_mixer(prefixed("params/")), change)
    conversion, loaded = read(own.save(tmp_path, "npz"))
    assert conversion.variant.architecture == own.sizes
    np.testing.assert_allclose(flax_logits(loaded.arrays, own.inputs, own.sizes), own.outputs, rtol=1e-6)
