"""The table of variants is complete, agrees with what upstream published, and counts as real models do."""

import dataclasses
import functools
import math

import pytest
import torch

from utils.errors import ParameterError
from utils.families.convmixer.source import ConvMixer
from utils.families.mlp_mixer import source as mlp_mixer
from utils.families.variants import VARIANTS, MixerArchitecture, artefact_name, check_name, get_variant

CONVMIXERS = [name for name, variant in VARIANTS.items() if variant.family == "convmixer"]
MIXERS = [name for name, variant in VARIANTS.items() if variant.family == "mixer"]
PUBLISHED = [name for name, variant in VARIANTS.items() if not variant.testing]

# By name as in locuslab/convmixer's README, and by hidden size and patch as in vision_transformer's
# vit_jax/models_test.py; for 1,000 classes.
OFFICIAL_COUNTS = {"convmixer_1536_20": 51_625_960, "convmixer_768_32": 21_110_248, "convmixer_1024_20": 24_383_464,
                   (768, 16): 59_880_472, (768, 32): 60_293_428, (1024, 16): 208_196_168}  # fmt: skip
# Sizes as published: tmp-iclr/convmixer's README (in millions of bytes), the bucket's listing (in MiB).
PUBLISHED_BYTES = {
    "convmixer_1536_20": (207e6, 1e6),
    "convmixer_768_32": (85e6, 1e6),
    "convmixer_1024_20": (98e6, 1e6),
    "mixer_l16_i21k": (875.78 * 2**20, 0.05 * 2**20),
}
URLS = {
    "convmixer_1536_20": "convmixer_1536_20_ks9_p7.pth.tar",
    "convmixer_768_32": "convmixer_768_32_ks7_p7_relu.pth.tar",
    "convmixer_1024_20": "convmixer_1024_20_ks9_p14.pth.tar",
    "mixer_b16_sam": "sam/Mixer-B_16.npz",
    "mixer_b32_sam": "sam/Mixer-B_32.npz",
    "mixer_b16_i1k": "imagenet1k/Mixer-B_16.npz",
    "mixer_l16_i1k": "imagenet1k/Mixer-L_16.npz",
    "mixer_b16_i21k": "imagenet21k/Mixer-B_16.npz",
    "mixer_l16_i21k": "imagenet21k/Mixer-L_16.npz",
    "mixer_s8_gsam": "gsam/Mixer-S_8.npz",
    "mixer_s16_gsam": "gsam/Mixer-S_16.npz",
    "mixer_s32_gsam": "gsam/Mixer-S_32.npz",
    "mixer_b16_gsam": "gsam/Mixer-B_16.npz",
    "mixer_b32_gsam": "gsam/Mixer-B_32.npz",
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_lacks_nothing(name):
    variant = VARIANTS[name]
    assert variant.name == name
    for field in dataclasses.fields(variant):
        optional = field.name in ("testing", "top1", "origins", "loss") or (
            variant.testing and field.name in ("sources", "labels")
        )
        assert optional or getattr(variant, field.name), field.name
    classes = {"imagenet1k": 1000, "imagenet21k": 21843}.get(variant.labels)
    assert variant.testing or variant.architecture.classes == classes
    assert variant.licence in ("MIT", "Apache-2.0")
    assert all(url.startswith("https://") for url in (variant.licence_url, variant.paper_url, variant.upstream_url))
    assert variant.citation.count("{") == variant.citation.count("}") > 0
    if variant.top1 is None:
        assert variant.top1_source.startswith("none")
    else:
        assert 60 < variant.top1 < 90
        assert "https://" in variant.top1_source


@pytest.mark.parametrize("name", PUBLISHED)
def test_urls_are_the_official_ones_and_a_mirror_comes_last(name):
    variant = VARIANTS[name]
    mirrors = [source for source in variant.sources if source.repository]
    found = [(source.layout, source.url) for source in variant.sources[: len(variant.sources) - len(mirrors)]]
    if variant.family == "mixer":
        assert found == [("flax", f"https://storage.googleapis.com/mixer_models/{URLS[name]}")]
    else:
        releases = "https://github.com/tmp-iclr/convmixer/releases/download"
        assert found == [
            ("timm", f"{releases}/timm-v1.0/{URLS[name]}"),
            ("sequential", f"{releases}/v1.0/{URLS[name]}"),
        ]
        assert variant.architecture.activation == ("relu" if "relu" in URLS[name] else "gelu")
    # timm has no copy of what was trained with SAM or GSAM.
    assert [source.layout for source in mirrors] == (
        [] if "sam" in name else ["timm_mixer" if variant.family == "mixer" else "timm"]
    )
    for source in mirrors:
        assert source.url == f"https://huggingface.co/{source.repository}/resolve/main/{source.file}"


@functools.cache
def shapes_of_the_source_model(architecture):
    if isinstance(architecture, MixerArchitecture):
        return mlp_mixer.parameter_shapes(mlp_mixer.build(architecture))
    with torch.device("meta"):  # shapes only: the largest would take 200 MB
        model = ConvMixer(architecture)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_keys_shapes_and_parameter_count_are_those_of_the_source_model_and_of_official_tests(name):
    variant, a = VARIANTS[name], VARIANTS[name].architecture
    assert shapes_of_the_source_model(a) == variant.shapes
    key = name if name in CONVMIXERS else (a.hidden_dim, a.patch_size)
    if key in OFFICIAL_COUNTS:
        of_a_class = 0 if name in CONVMIXERS else a.hidden_dim + 1
        assert variant.parameters == OFFICIAL_COUNTS[key] + (a.classes - 1000) * of_a_class


@pytest.mark.parametrize("name", PUBLISHED_BYTES)
def test_published_file_size_agrees_with_the_count(name):
    size, tolerance = PUBLISHED_BYTES[name]
    arrays = VARIANTS[name].shapes
    # Per array an .npz has a header of 128 bytes and its name twice, in about 150 bytes of directory.
    overhead = sum(280 + 2 * len(key) for key in arrays) if name in MIXERS else 0
    assert 4 * sum(math.prod(shape) for shape in arrays.values()) + overhead == pytest.approx(size, abs=tolerance)


@pytest.mark.parametrize("name", VARIANTS)
def test_preprocessing_is_that_of_the_upstream_evaluation(name):
    variant = VARIANTS[name]
    share = 0.96 if variant.family == "convmixer" else 0.875
    assert variant.image_size == (48 if variant.testing else 224)
    assert variant.preprocessing.resize == math.floor(variant.image_size / share)
    assert variant.preprocessing.interpolation == "bicubic"
    black = [-mean / std for mean, std in zip(variant.preprocessing.mean, variant.preprocessing.std, strict=True)]
    if variant.family == "mixer":
        assert black == [-1, -1, -1]
        assert variant.architecture.image_size == variant.image_size
    else:  # torchvision's ImageNet statistics, in [0, 1]
        assert black == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])


def test_unknown_variant_names_the_known_ones():
    with pytest.raises(
        ParameterError, match=r"variant = 'convmixer_768_23'.*Did you mean 'convmixer_768_32'"
    ) as raised:
        get_variant("convmixer_768_23", "convmixer")
    assert str(raised.value).endswith(f"Choose one of: {', '.join(CONVMIXERS)}.")
    for senseless in (None, 3, ["convmixer_tiny"], ""):
        with pytest.raises(ParameterError, match="is not known"):
            get_variant(senseless)


def test_variant_of_the_other_family_names_its_notebook():
    with pytest.raises(ParameterError, match=r"is of the mixer family.*conversion_mlpmixer\.ipynb"):
        get_variant("mixer_b16_i1k", "convmixer")
    with pytest.raises(ParameterError, match=r"is of the convmixer family.*conversion_convmixer\.ipynb"):
        get_variant("convmixer_tiny", "mixer")
    assert get_variant("mixer_b16_i1k") is VARIANTS["mixer_b16_i1k"]


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("convmixer_768_32", "classification", "official"), "convmixer_768_32_classification"),
        (("convmixer_768_32", "fe", "custom"), "convmixer_768_32_fe"),
        (("convmixer_768_32", "fe", "synthetic"), "convmixer_768_32_fe_synthetic"),
        (("mixer_b16_i1k", "fe", "synthetic", "plain"), "mixer_b16_i1k_fe_plain_synthetic"),
    ],
)
def test_artefact_name(parts, name):
    assert artefact_name(*parts) == name


@pytest.mark.parametrize(
    ("parts", "parameter"),
    [
        (("convmixer_tiny", "features", "official"), "head = 'features'"),
        (("convmixer_tiny", "fe", "random"), "weights = 'random'"),
        (("mixer_tiny", "fe", "official", "tf"), "operations = 'tf'"),
    ],
)
def test_unknown_part_of_an_artefact_name_is_refused(parts, parameter):
    with pytest.raises(ParameterError, match=parameter):
        artefact_name(*parts)


@pytest.mark.parametrize("name", ["", None, "a b", "-a", "../a", "mine_synthetic", "x" * 65, "é"])
def test_a_name_of_ones_own_that_artefacts_cannot_have_is_refused(name):
    with pytest.raises(ParameterError, match="name is "):
        check_name(name)
    check_name("x" * 64)
