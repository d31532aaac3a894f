"""Models as their makers write them: ConvMixer and Mixer in plain PyTorch, by definitions of the tests' own."""

import numpy as np
import torch
from torch.nn import functional

from utils.images.photographs import sample_photographs

ACTIVATIONS = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
}


def convmixer(architecture, weights, inputs, dtype="float32", left_and_above=False, tf32=False):
    """Logits [B, classes] and features [B, dim] for NHWC inputs; of even kernels, the padding is PyTorch's or not."""
    a, rounded = architecture, to_tf32 if tf32 else lambda x: x
    w = tensors(weights, dtype)

    def unit(x, convolution, norm, **options):
        kernel, bias = rounded(w[f"{convolution}.weight"]), w[f"{convolution}.bias"]
        x = ACTIVATIONS[a.activation](functional.conv2d(rounded(x), kernel, bias, **options))
        mean, variance, scale, shift = (w[f"{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, mean, variance, scale, shift, eps=a.batch_norm_epsilon)

    padding = [(a.kernel_size - 1) // 2, a.kernel_size // 2]
    if left_and_above:
        padding.reverse()
    x = unit(nchw(inputs, dtype), "stem.0", "stem.2", stride=a.patch_size)
    for i in range(a.depth):
        spatial, pointwise = f"blocks.{i}.0.fn", f"blocks.{i}"
        x = x + unit(functional.pad(x, padding * 2), f"{spatial}.0", f"{spatial}.2", groups=a.dim)
        x = unit(x, f"{pointwise}.1", f"{pointwise}.3")
    features = x.mean((2, 3))
    logits = rounded(features) @ rounded(w["head.weight"]).T + w["head.bias"]
    return {"features": features.numpy(), "logits": logits.numpy()}


def mixer(architecture, weights, inputs, dtype="float32", tf32=False):
    """Logits [B, classes] and features [B, hidden_dim] for NHWC inputs."""
    a, rounded = architecture, to_tf32 if tf32 else lambda x: x
    w = tensors(weights, dtype)

    def dense(name, x):
        return rounded(x) @ rounded(w[f"{name}/kernel"]) + w[f"{name}/bias"]

    def norm(name, x):
        return functional.layer_norm(x, x.shape[-1:], w[f"{name}/scale"], w[f"{name}/bias"], a.layer_norm_epsilon)

    def mlp(name, x):
        return dense(f"{name}/Dense_1", ACTIVATIONS[a.activation](dense(f"{name}/Dense_0", x)))

    kernel = rounded(w["stem/kernel"]).permute(3, 2, 0, 1)
    x = functional.conv2d(rounded(nchw(inputs, dtype)), kernel, w["stem/bias"], stride=a.patch_size).flatten(2).mT
    for i in range(a.blocks):
        block = f"MixerBlock_{i}"
        x = x + mlp(f"{block}/token_mixing", norm(f"{block}/LayerNorm_0", x).mT).mT
        x = x + mlp(f"{block}/channel_mixing", norm(f"{block}/LayerNorm_1", x))
    features = norm("pre_head_layer_norm", x).mean(1)
    return {"features": features.numpy(), "logits": dense("head", features).numpy()}


class OwnConvMixer(torch.nn.Module):
    """A ConvMixer of logits as a user's own module."""

    def __init__(self, architecture, weights):
        super().__init__()
        self.architecture = architecture
        for key, array in weights.items():
            self.register_buffer(key.replace(".", "-"), torch.from_numpy(np.asarray(array)))

    def forward(self, x):
        weights = {key.replace("-", "."): tensor.numpy() for key, tensor in self.named_buffers()}
        return torch.from_numpy(convmixer(self.architecture, weights, x.permute(0, 2, 3, 1).numpy())["logits"])


def tensors(weights, dtype):
    return {key: torch.from_numpy(np.asarray(array)).to(getattr(torch, dtype)) for key, array in weights.items()}


def nchw(inputs, dtype):
    return torch.from_numpy(inputs).permute(0, 3, 1, 2).to(getattr(torch, dtype))


def to_tf32(x):
    """To the nearest float32 with 10 bits of mantissa."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def photographs_of(height, width):
    """Two photographs' middles, uint8 [2, height, width, 3]."""
    found = []
    for image in sample_photographs(2).values():
        left, top = (image.width - width) // 2, (image.height - height) // 2
        found.append(np.asarray(image.crop((left, top, left + width, top + height))))
    return np.stack(found)
