"""The source model in PyTorch, and its export in TensorFlow's own operations."""

import torch
from torch import nn

from utils.families.base import Export
from utils.families.convmixer import source as pytorch


class Affine(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        return self.alpha * x + self.beta


class Block(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.norm1, self.norm2 = Affine(a.dim), Affine(a.dim)
        self.scale1, self.scale2 = nn.Parameter(torch.ones(a.dim)), nn.Parameter(torch.ones(a.dim))
        self.tokens = nn.Linear(a.tokens, a.tokens)
        self.channels = nn.Sequential(nn.Linear(a.dim, 4 * a.dim), nn.GELU(), nn.Linear(4 * a.dim, a.dim))

    def forward(self, x):
        x = x + self.scale1 * self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.scale2 * self.channels(self.norm2(x))


class ResMlp(nn.Module):
    def __init__(self, a, head):
        super().__init__()
        self.stem = nn.Conv2d(3, a.dim, a.patch_size, stride=a.patch_size)
        self.blocks = nn.Sequential(*[Block(a) for _ in range(a.depth)])
        self.norm = Affine(a.dim)
        self.head = nn.Linear(a.dim, a.classes) if head == "classification" else nn.Identity()

    def features(self, x):
        return self.norm(self.blocks(self.stem(x).flatten(2).transpose(1, 2))).mean(1)

    def forward(self, x):
        return self.head(self.features(x))


class ReferenceModel(pytorch.ReferenceModel):
    has_kinks = has_maps = has_statistics = False


def build(architecture, weights, head):
    model = ResMlp(architecture, head)
    model.load_state_dict({key: torch.from_numpy(array.copy()) for key, array in weights.items()})
    source = ReferenceModel(model.eval())
    source.architecture = architecture
    return source


def gelu(x):
    import tensorflow as tf

    return tf.nn.gelu(x, approximate=False)


def export(source, weights, image_size, operations):
    import tensorflow as tf

    from utils.export.function import ExportedFunction

    a = source.architecture
    variables = {key: tf.Variable(array, name=key) for key, array in source.variables().items()}

    def dense(x, name):
        return tf.matmul(x, variables[f"{name}.weight"], transpose_b=True) + variables[f"{name}.bias"]

    def affine(x, name):
        return variables[f"{name}.alpha"] * x + variables[f"{name}.beta"]

    def call(inputs, training):
        kernel = tf.transpose(variables["stem.weight"], (2, 3, 1, 0))
        x = tf.nn.conv2d(inputs, kernel, strides=a.patch_size, padding="VALID") + variables["stem.bias"]
        x = tf.reshape(x, (-1, a.tokens, a.dim))
        for block in (f"blocks.{i}" for i in range(a.depth)):
            y = dense(tf.transpose(affine(x, f"{block}.norm1"), (0, 2, 1)), f"{block}.tokens")
            x += variables[f"{block}.scale1"] * tf.transpose(y, (0, 2, 1))
            y = gelu(dense(affine(x, f"{block}.norm2"), f"{block}.channels.0"))
            x += variables[f"{block}.scale2"] * dense(y, f"{block}.channels.2")
        x = tf.reduce_mean(affine(x, "norm"), 1)
        return dense(x, "head") if source.output == "logits" else x

    units = a.classes if source.output == "logits" else a.dim
    shape = (image_size, image_size, 3)
    return Export(ExportedFunction(call, variables, dict(variables), source.output, units, shape), {})
