"""Models of one's own, as people name, wrap and save them: sizes from the file, and what the very model computes."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from own_checkpoints import timm_mixer

from own import definitions
from own.definitions import BFLOAT16, convmixer, flax_mixer, mixer, several
from own.opening import assert_computes, opened
from utils.checkpoints.loading import Checkpoint
from utils.errors import CheckpointError
from utils.evaluate.source import load_source
from utils.families.convmixer import ConvMixerArchitecture
from utils.families.mlp_mixer import MixerArchitecture

PT, FLAT = ("pt",), ("pt", "safetensors")
NPZ, MSGPACK, ANY = ("npz",), ("msgpack",), ("pt", "safetensors", "npz")
prefixed, under = definitions.prefixed, definitions.under
COMMON = torch.zeros(3, 1, 1)  # as buffers of a module that normalises
DATA_PARALLEL = prefixed("module.")
CIFAR = partial(convmixer, size=(32, 32), kernel_size=5, patch_size=2)
SMALL_MIXER, SMALL = partial(mixer, blocks=1), partial(convmixer, depth=1)


def ema(state):
    """torch.optim.swa_utils.AveragedModel's."""
    return {"n_averaged": torch.tensor(5)} | DATA_PARALLEL(state)


# By name: the kinds of file, and the model.
CONVERTED = {
    # Sizes.
    "CIFAR's recipe": (ANY, CIFAR),
    "patches that leave a rest": (PT, partial(convmixer, size=(32, 34), kernel_size=9, patch_size=7, classes=2,
        wrap=lambda state: under("model_state_dict", optimizer_state_dict=definitions.optimiser(state))(state))),
    "patches of a pixel": (PT, partial(convmixer, size=(12, 10), dim=16, depth=4, patch_size=1,
        wrap=lambda state: under("model", scaler={"scale": 65536.0})(DATA_PARALLEL(state)))),
    "even kernel": (FLAT, partial(convmixer, size=(12, 10), kernel_size=8, patch_size=1)),
    "sound pictures": (FLAT, lambda: replace_settings(convmixer(size=(128, 32), kernel_size=9, patch_size=7,
        channels=1), image_size=0, mean="0", std="1")),
    "ten channels": (FLAT, partial(convmixer, definitions.TIMM, channels=10)),
    "eleven blocks": (FLAT, partial(convmixer, definitions.UNITS, dim=4, depth=11, classes=2)),
    "one block and class": (FLAT, partial(convmixer, depth=1, classes=1)),
    "ReLU": (PT, partial(convmixer, definitions.TIMM, activation="relu")),
    "tanh GELU and another epsilon": (PT, partial(convmixer, activation="gelu_tanh", epsilon=1e-3)),
    # Names.
    "head of a Sequential": (FLAT, partial(convmixer, definitions.TIMM | {"head": "head.2"})),
    "units": (FLAT, partial(convmixer, definitions.UNITS, wrap=definitions.uncounted)),
    "units in model_state_dict": (PT, partial(convmixer, definitions.UNITS, wrap=under("model_state_dict", loss=0.5))),
    "layers in net": (PT, partial(convmixer, definitions.LAYERS, wrap=under("net", acc=91.0))),
    "layers in model_state": (PT, partial(convmixer, definitions.LAYERS, wrap=under("model_state"))),
    "grey, kernel as large as the patch": (PT, partial(convmixer, definitions.LAYERS, channels=1, kernel_size=4)),
    "norms after convolutions": (PT, partial(convmixer, definitions.NORMS_LAST)),
    "flat": (FLAT, partial(convmixer, partial(definitions.paper, flat=True))),
    "head beside a backbone": (PT, partial(convmixer, definitions.APART)),
    # Prefixes, and what is beside the model.
    "self.net": (FLAT, partial(convmixer, wrap=prefixed("net."))),
    "self.backbone and a loss": (FLAT, partial(convmixer, definitions.TIMM, noted=("criterion.weight",),
        wrap=prefixed("backbone.", **{"criterion.weight": torch.ones(5)}))),
    "self.encoder.model and a metric": (FLAT, partial(convmixer, definitions.UNITS, noted=("val_f1.tp",),
        wrap=prefixed("encoder.model.", **{"val_f1.tp": torch.zeros(5, dtype=torch.int64)}))),
    "beside a projection": (PT, partial(convmixer, noted=("projector.weight",),
        wrap=prefixed("net.", **{"projector.weight": torch.ones(8, 5), "projector.bias": torch.ones(8)}))),
    "behind a module that normalises": (FLAT, partial(convmixer, noted=("0.mean", "0.std"),
        wrap=prefixed("1.", {"0.mean": COMMON.clone(), "0.std": COMMON + 1}))),
    "compiled and parallel": (PT, partial(convmixer, definitions.LAYERS, wrap=prefixed("module._orig_mod."))),
    "parallel and compiled": (PT, partial(convmixer, wrap=prefixed("_orig_mod.module."))),
    "profiled by thop": (FLAT, partial(convmixer, noted=("total_ops",), wrap=definitions.profiled)),
    "profiled by thop, own names": (PT, partial(mixer, noted=("total_ops",), wrap=definitions.profiled)),
    "AveragedModel": (PT, partial(convmixer, noted=("n_averaged",), wrap=ema)),
    "Lightning": (PT, partial(mixer, noted=("loss.weight",), wrap=lambda state: under("state_dict",
        optimizer_states=[definitions.optimiser(state)], hyper_parameters={"dim": 12})(
            prefixed("model.", **{"loss.weight": torch.ones(5)})(state)))),
    # Sets of weights.
    "average beside": (PT, lambda: replace_noted(several(SMALL, ("state_dict", "state_dict_ema"), 0),
        "state_dict_ema")),
    "average taken": (PT, lambda: several(SMALL, ("model", "model_ema"), 1, use_ema=True)),
    "Mixer's average": (PT, lambda: several(SMALL_MIXER, ("model", "model_ema"), 1, use_ema=True)),
    "teacher": (PT, lambda: several(SMALL_MIXER, ("student", "teacher"), 1, weights="teacher")),
    "student by prefix": (PT, lambda: several(SMALL, ("student", "teacher"), 0, joined=True, weights="student")),
    # Mixers of PyTorch.
    "Mixer, norms by MLP's name": (PT, mixer),
    "Mixer, norms beside MLPs": (ANY, partial(mixer, definitions.PRE_NORM)),
    "Mixer of eleven blocks": (FLAT, partial(mixer, definitions.PRE_NORM, blocks=11, hidden_dim=4, classes=2)),
    "Mixer in net": (PT, partial(mixer, definitions.PRE_NORM, wrap=under("net"))),
    "as many tokens as channels": (PT, partial(mixer, definitions.LAYERS_MIXER, hidden_dim=16)),
    "all widths the same": (PT, partial(mixer, hidden_dim=16, tokens_mlp_dim=16, channels_mlp_dim=16, classes=16)),
    "Mixer of one channel": (PT, partial(mixer, definitions.PRE_NORM, channels=1)),
    "Mixer, epsilon given": (PT, partial(mixer, layer_norm_epsilon=1e-6, settings={"epsilon": 1e-6})),
    "Mixer, tanh GELU given": (PT, partial(mixer, activation="gelu_tanh", settings={"activation": "gelu_tanh"})),
    "timm's Mixer": (ANY, partial(mixer, definitions.TIMM_MIXER)),
    "timm's Mixer behind a prefix": (FLAT, partial(mixer, definitions.TIMM_MIXER, wrap=prefixed("backbone."))),
    "mlp-mixer-pytorch": (ANY, partial(mixer, definitions.package)),
    "mlp-mixer-pytorch behind a prefix": (FLAT, partial(mixer, definitions.package, wrap=prefixed("model."))),
    # Mixers of Flax.
    "parameters and moments": (NPZ, partial(flax_mixer, definitions.big_vision)),
    "older optimiser": (NPZ, partial(flax_mixer, definitions.older_optimizer)),
    "bfloat16": (NPZ, partial(flax_mixer, dtype=BFLOAT16)),
    "exact GELU given": (NPZ, partial(flax_mixer, activation="gelu")),
    "vision_transformer's trainer": (MSGPACK, partial(flax_mixer, definitions.flax_tuple)),
    "TrainState": (MSGPACK, partial(flax_mixer, definitions.flax_state)),
    "bfloat16 in msgpack": (MSGPACK, partial(flax_mixer, definitions.flax_state, dtype=BFLOAT16)),
}  # fmt: skip


def replace_settings(own, **settings):
    return definitions.replace(own, settings=settings)


def replace_noted(own, *noted):
    return definitions.replace(own, noted=noted)


TRIALS = [(name, kind) for name, row in CONVERTED.items() for kind in row[0]]


@pytest.mark.parametrize(  # JAX compiles block by block
    ("name", "kind"), [tiny.slow(*trial) if trial[0] == "Mixer of eleven blocks" else trial for trial in TRIALS]
)
def test_file_gives_its_own_sizes_and_computes_what_its_own_model_does(tmp_path, name, kind):
    own = CONVERTED[name][1]()
    conversion = opened(own.save(tmp_path, kind), **own.settings)
    assert conversion.variant.architecture == own.sizes
    assert_computes(conversion, own.inputs, own.outputs)
    for each in own.noted:
        assert any(each in note for note in conversion.notes), each
    assert list((tmp_path / "exports").iterdir()) == []


# What only names could decide, and may not: either it is right, or it is refused. Never is it wrong.
OPEN = {
    "lists": (FLAT, partial(convmixer, definitions.LISTS, lists=True)),
    "norms after convolutions": (("safetensors",), partial(convmixer, definitions.NORMS_LAST)),
    "layers": (("safetensors",), partial(convmixer, definitions.LAYERS)),
    "grey, kernel as large as the patch": (("safetensors",), partial(convmixer, definitions.LAYERS, channels=1,
        kernel_size=4)),
    "norms by MLP's name": (("safetensors", "npz"), mixer),
    "as many tokens as channels": (("safetensors",), partial(mixer, definitions.PRE_NORM, hidden_dim=16)),
    "channels before tokens": (PT, partial(mixer, dict(sorted(definitions.LAYERS_MIXER.items())))),
    "all widths the same": (("safetensors",), partial(mixer, hidden_dim=16, tokens_mlp_dim=16, channels_mlp_dim=16)),
}  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, row in OPEN.items() for kind in row[0]])
def test_what_stays_open_is_right_or_refused_and_never_wrong(tmp_path, name, kind):
    own = OPEN[name][1]()
    try:
        conversion = opened(own.save(tmp_path, kind), **own.settings)
    except CheckpointError:
        return
    assert_computes(conversion, own.inputs, own.outputs)


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_reference_decides_between_two_norms_that_fit_either_way(tmp_path, kind):
    own = mixer(definitions.SWAPPABLE)
    path = own.save(tmp_path, kind)
    with pytest.raises(CheckpointError, match=r"mixer_layers\.0\.(pre|mid)"):
        opened(path)
    np.savez(tmp_path / "reference.npz", inputs=own.inputs, outputs=own.outputs.astype(np.float32))
    conversion = opened(path, reference=str(tmp_path / "reference.npz"))
    assert_computes(conversion, own.inputs, own.outputs)
    # Whoever evaluates the artefact reads the checkpoint as it was converted.
    artefact = SimpleNamespace(variant=conversion.variant, manifest={"names": conversion.names})
    found = load_source(artefact, Checkpoint(path, "custom", None, ""))(own.inputs)
    assert tiny.relative_error(found, own.outputs) <= 1e-5


def test_flaxs_chunks_of_a_large_array_are_put_together(tmp_path, monkeypatch):
    monkeypatch.setattr(definitions.serialization, "MAX_CHUNK_SIZE", 256)
    own = flax_mixer(definitions.flax_state)
    assert b"__msgpack_chunked_array__" in own.content
    assert_computes(opened(own.save(tmp_path, "msgpack")), own.inputs, own.outputs)


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize(("make", "head"), [(CIFAR, "7"), (partial(mixer, definitions.PRE_NORM), "to_logits.1")])
def test_features_are_what_the_head_is_given_and_need_none(tmp_path, make, head, kind):
    own = make()
    weight, bias = (own.content[f"{head}.{part}"].double().numpy() for part in ("weight", "bias"))
    headless = {key: value for key, value in own.content.items() if not key.startswith(f"{head}.")}
    for content in (own.content, headless):
        path = definitions.replace(own, content=content).save(tmp_path, kind)
        features = opened(path, head="fe", **own.settings).source.outputs(own.inputs, "float64")["features"]
        assert np.abs(features @ weight.T + bias - own.outputs).max() <= 1e-6 * np.abs(own.outputs).max()


def test_named_variant_takes_its_own_sizes_under_any_names_and_names_others(tmp_path):
    sizes = {"patch_size": 8, "hidden_dim": 32, "tokens_mlp_dim": 16, "channels_mlp_dim": 64, "classes": 10}
    own = mixer(definitions.PRE_NORM, image_size=48, **sizes)
    path = own.save(tmp_path, "pt")
    assert_computes(opened(path, "mixer_tiny"), own.inputs, own.outputs)
    with pytest.raises(CheckpointError, match=r"""(?s)32.*["']own["']|["']own["'].*32"""):
        opened(path, "mixer_s16_gsam")
    with pytest.raises(CheckpointError, match=r"conversion_mlpmixer\.ipynb"):
        opened(path, family="convmixer")
    with pytest.raises(CheckpointError, match=r"conversion_convmixer\.ipynb"):
        opened(CIFAR().save(tmp_path, "safetensors"), family="mixer")


# Files that came with what other definitions compute.

MADE = tiny.GOLDEN.parent / "own"
CIFAR_SIZES = ConvMixerArchitecture(32, 3, 5, 2, "gelu", 10)
CONV1D = MixerArchitecture(4, 24, 2, 20, 40, 7, 32, 1e-5, "gelu")
MADE_ELSEWHERE = {
    "convmixer_cifar.pt": (CIFAR_SIZES, {"image_size": 32}),
    "convmixer_lightning_backbone.pt": (CIFAR_SIZES, {"image_size": 32}),
    "convmixer_relu.pt": (definitions.replace(CIFAR_SIZES, activation="relu"),
                          {"image_size": 32, "activation": "relu"}),
    "convmixer_grey_even.pt": (ConvMixerArchitecture(24, 2, 4, 4, "gelu", 5, channels=1), {"image_size": 28}),
    "mixer_conv1d_eps_1e-5.pt": (CONV1D, {"name": "conv1d"}),  # the file's own has a dot
    "mixer_params.npz": (MixerArchitecture(4, 24, 2, 20, 40, 7, 32), {}),
}  # fmt: skip


@pytest.mark.parametrize("file", MADE_ELSEWHERE)
def test_file_made_elsewhere_computes_what_its_maker_says(tmp_path, file):
    sizes, settings = MADE_ELSEWHERE[file]
    expected = np.load(MADE / f"{file.rpartition('.')[0]}.expected.npz")
    conversion = opened(MADE / file, output_dir=str(tmp_path), **settings)
    assert conversion.variant.architecture == sizes
    assert_computes(conversion, expected["inputs"], expected["outputs"])
    assert any("loss.weight" in note for note in conversion.notes) == ("lightning" in file)


# The definitions are themselves what they are taken for.


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("name", tiny.NAMES)
def test_definitions_of_convmixers_compute_the_golden_outputs(name, flat):
    golden, a = tiny.expected(name), tiny.architecture(name)
    states = {
        layout: torch.load(tiny.GOLDEN / f"{name}.{layout}.pth.tar", weights_only=True) for layout in tiny.LAYOUTS
    }
    model = definitions.paper(a, flat)
    order = list(states["sequential"].values())
    model.load_state_dict(dict(zip(model.state_dict(), order, strict=True)))
    named = definitions.NamedConvMixer(definitions.TIMM, a)
    named.load_state_dict(states["timm"]["state_dict"])
    assert list(named.state_dict()) == list(states["timm"]["state_dict"])
    assert flat or list(model.state_dict()) == list(states["sequential"])
    for each in (model, named):
        assert tiny.relative_error(definitions.computed(each, golden["inputs"].copy()), golden["logits"]) < 1e-6


def test_definitions_of_mixers_compute_the_golden_outputs():
    golden, a, weights = tiny.expected("mixer_tiny"), tiny.architecture("mixer_tiny"), tiny.mixer_weights()
    inputs = golden["inputs"].copy()
    assert tiny.relative_error(definitions.flax_logits(weights, inputs, a), golden["logits"]) < 1e-6
    assert {k: v.shape for k, v in definitions.flax_parameters(a).items()} == {k: v.shape for k, v in weights.items()}
    model = definitions.NamedMixer(definitions.TIMM_MIXER, a)
    model.load_state_dict({key: torch.from_numpy(array) for key, array in timm_mixer().items()})
    assert tiny.relative_error(definitions.computed(model, inputs), golden["logits"]) < 1e-6


def test_patches_of_the_package_are_in_the_order_that_einops_gives_them():
    rearrange = pytest.importorskip("einops").rearrange
    x = torch.randn(2, 3, 8, 12)
    order = "b c (h p1) (w p2) -> b (h w) (p1 p2 c)"
    assert torch.equal(definitions.Patches(4)(x), rearrange(x, order, p1=4, p2=4))


@pytest.mark.parametrize("make", [convmixer, mixer])
def test_every_reading_of_a_definition_computes_something_else(make):
    own = make()
    epsilon = own.sizes.EPSILON
    norm = "epsilon" if make is convmixer else epsilon
    for other in ({"activation": "gelu_tanh"}, {"activation": "relu"}, {norm: getattr(own.sizes, epsilon) / 10}):
        assert np.abs(make(**other).outputs - own.outputs).max() > 1e-5 * np.abs(own.outputs).max(), other
