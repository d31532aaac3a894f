"""Who published the models: papers, licences, citations, and what each set of checkpoints was trained on.

Kept apart from the table of variants, because a whole set shares each entry.
"""

_CONVMIXER_CITATION = """@article{trockman2022patches,
  title={Patches Are All You Need?},
  author={Trockman, Asher and Kolter, J. Zico},
  journal={arXiv preprint arXiv:2201.09792},
  year={2022}
}"""
_MIXER_CITATION = """@article{tolstikhin2021mixer,
  title={MLP-Mixer: An all-MLP Architecture for Vision},
  author={Tolstikhin, Ilya and Houlsby, Neil and Kolesnikov, Alexander and Beyer, Lucas and Zhai, Xiaohua and
    Unterthiner, Thomas and Yung, Jessica and Steiner, Andreas and Keysers, Daniel and Uszkoreit, Jakob and
    Lucic, Mario and Dosovitskiy, Alexey},
  journal={arXiv preprint arXiv:2105.01601},
  year={2021}
}"""
_SAM_CITATION = """@article{chen2021outperform,
  title={When Vision Transformers Outperform ResNets without Pretraining or Strong Data Augmentations},
  author={Chen, Xiangning and Hsieh, Cho-Jui and Gong, Boqing},
  journal={arXiv preprint arXiv:2106.01548},
  year={2021}
}"""
_GSAM_CITATION = """@inproceedings{zhuang2022gsam,
  title={Surrogate Gap Minimization Improves Sharpness-Aware Training},
  author={Zhuang, Juntang and Gong, Boqing and Yuan, Liangzhe and Cui, Yin and Adam, Hartwig and
    Dvornek, Nicha and Tatikonda, Sekhar and Duncan, James and Liu, Ting},
  booktitle={ICLR},
  year={2022}
}"""

# Fields of a Variant, by family.
PAPERS = {
    "convmixer": {
        "paper": "Patches Are All You Need?",
        "paper_url": "https://arxiv.org/abs/2201.09792",
        "citation": _CONVMIXER_CITATION,
    },
    "mixer": {
        "paper": "MLP-Mixer: An all-MLP Architecture for Vision",
        "paper_url": "https://arxiv.org/abs/2105.01601",
        "citation": _MIXER_CITATION,
    },
}

_IMAGENET1K_MIXERS = (
    "ImageNet-1k, from scratch, according to the vision_transformer README, which calls these models "
    "pre-trained on ImageNet, and to the folder's name. Sources disagree: timm's model cards "
    "(mixer_b16_224.goog_in21k_ft_in1k, mixer_l16_224.goog_in21k_ft_in1k) say pre-trained on ImageNet-21k "
    "and fine-tuned on ImageNet-1k, and the README of MLPMixer-jax2tf says fine-tuned on ImageNet-1k. "
    "The accuracies measured with these weights (76.68 and 72.34, mmpretrain's configs/mlp_mixer) are about "
    "those of the paper's models trained from scratch."
)

# What `Variant.loss` says, by family or folder. Of the other folders no recipe was found.
_BIG_VISION = "https://github.com/google-research/big_vision/blob/main/big_vision/configs"
LOSSES = {
    "convmixer": "softmax, by the authors' command, https://github.com/locuslab/convmixer",
    "imagenet1k": f"sigmoid, by the later recipe of the same authors, {_BIG_VISION}/mlp_mixer_i1k.py",
    "gsam": f"sigmoid, by the authors' recipe for ViT, {_BIG_VISION}/proj/gsam/vit_i1k_gsam_no_aug.py",
}

# What is in each folder of the bucket gs://mixer_models: fields of a Variant.
MIXER_FOLDERS = {
    "imagenet1k": {**PAPERS["mixer"], "labels": "imagenet1k", "trained_on": _IMAGENET1K_MIXERS},
    "imagenet21k": {
        **PAPERS["mixer"],
        "labels": "imagenet21k",
        "trained_on": "ImageNet-21k (vision_transformer README)",
    },
    "sam": {
        "paper": "When Vision Transformers Outperform ResNets without Pretraining or Strong Data Augmentations",
        "paper_url": "https://arxiv.org/abs/2106.01548",
        "citation": _SAM_CITATION + "\n\n" + _MIXER_CITATION,
        "labels": "imagenet1k",
        "trained_on": "ImageNet-1k, from scratch, with sharpness-aware minimisation (SAM)",
    },
    "gsam": {
        "paper": "Surrogate Gap Minimization Improves Sharpness-Aware Training",
        "paper_url": "https://arxiv.org/abs/2203.08065",
        "citation": _GSAM_CITATION + "\n\n" + _MIXER_CITATION,
        "labels": "imagenet1k",
        "trained_on": "ImageNet-1k, from scratch, with surrogate-gap guided SAM (GSAM)",
    },
}
