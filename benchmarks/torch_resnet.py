"""A PyTorch copy of our ResNets, and PGD on it: the other side of the benchmarks.

Needs torch; imported only where it is installed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from robust_jax.models import Normalization, ResNetConfig


class _Block(nn.Module):
    """Basic block, activation after the sum."""

    def __init__(self, inputs: int, outputs: int, strides: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, strides, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.strides, self.padded = strides, 0
        self.shortcut = self.shortcut_norm = None
        if strides != 1 or inputs != outputs:
            if shortcut == "A":
                self.padded = (outputs - inputs) // 2
            else:
                self.shortcut = nn.Conv2d(inputs, outputs, 1, strides, bias=False)
                self.shortcut_norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut_norm(self.shortcut(x))
        elif self.padded or self.strides > 1:
            x = functional.pad(
                x[:, :, :: self.strides, :: self.strides], (0, 0, 0, 0, self.padded, self.padded)
            )
        return functional.relu(x + y)


class TorchResNet(nn.Module):
    """ResNet of basic blocks on [b k h w] images in [0, 1]; modules have our names."""

    def __init__(self, network: ResNetConfig, normalization: Normalization, num_classes: int = 10):
        super().__init__()
        inputs = network.stage_widths[0]
        self.stem_conv = nn.Conv2d(3, inputs, 3, 1, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(inputs)
        self.block_names = []
        stages = zip(network.stage_widths, network.num_blocks, strict=True)
        for stage, (outputs, count) in enumerate(stages, 1):
            for i in range(count):
                name = f"layer{stage}_{i}"
                strides = 2 if stage > 1 and i == 0 else 1
                self.add_module(name, _Block(inputs, outputs, strides, network.shortcut))
                self.block_names.append(name)
                inputs = outputs
        self.linear = nn.Linear(inputs, num_classes)
        mean, std = normalization.mean or (0.0,), normalization.std or (1.0,)
        self.register_buffer("mean", torch.tensor(mean)[None, :, None, None])
        self.register_buffer("std", torch.tensor(std)[None, :, None, None])
        self.normalized = bool(normalization.mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.normalized:
            x = (x - self.mean) / self.std
        x = functional.relu(self.stem_norm(self.stem_conv(x)))
        for name in self.block_names:
            x = getattr(self, name)(x)
        return self.linear(x.mean(dim=(2, 3)))


def torch_copy(
    network: ResNetConfig, variables: Mapping[str, Any], normalization: Normalization
) -> TorchResNet:
    """Returns the network with our weights, in evaluation mode, on the CPU.

    Raises:
        ValueError: a network that the copy does not have (bottlenecks, ImageNet's stem, biases).
    """
    norms = network.norm and network.stem_norm and network.shortcut_norm
    head = network.positions == 1 and not network.hidden
    basic = network.depth != 50 and network.stem == "cifar" and not network.conv_bias
    if not (norms and head and basic):
        raise ValueError(f"Expected network={network} to be a CIFAR ResNet of basic blocks.")
    model = TorchResNet(network, normalization)
    params, moments = variables["params"]["backbone"], variables["batch_stats"]["backbone"]
    for name, module in model.named_modules():
        path = name.split(".")
        if isinstance(module, nn.Conv2d | nn.Linear):
            kernel = np.asarray(_at(params, path)["kernel"])
            order = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
            module.weight.data = torch.from_numpy(kernel.transpose(order).copy())
        if isinstance(module, nn.Linear):
            module.bias.data = torch.from_numpy(np.array(_at(params, path)["bias"]))
        if isinstance(module, nn.BatchNorm2d):
            source, statistics = _at(params, path), _at(moments, path)
            module.weight.data = torch.from_numpy(np.array(source["scale"]))
            module.bias.data = torch.from_numpy(np.array(source["bias"]))
            module.running_mean = torch.from_numpy(np.array(statistics["mean"]))
            module.running_var = torch.from_numpy(np.array(statistics["var"]))
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _at(tree: Mapping[str, Any], path: list[str]) -> Mapping[str, Any]:
    for key in path:
        tree = tree[key]
    return tree


def channel_first(images: Any) -> torch.Tensor:
    """Returns [b h w k] images as a torch tensor [b k h w]."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(images).transpose(0, 3, 1, 2)))


def torch_pgd(
    model: Callable[[torch.Tensor], torch.Tensor],
    clean: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    step_size: float,
    num_steps: int,
) -> torch.Tensor:
    """Returns the last images of PGD (Linf, random start), as a PyTorch user writes it."""
    images = torch.clamp(clean + (torch.rand_like(clean) * 2 - 1) * eps, 0, 1)
    for _ in range(num_steps):
        images = images.detach().requires_grad_()
        loss = functional.cross_entropy(model(images), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
        moved = images + step_size * gradient.sign()
        images = torch.clamp(clean + torch.clamp(moved - clean, -eps, eps), 0, 1)
    return images.detach()
