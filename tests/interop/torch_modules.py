"""PyTorch modules to compare with, for tests that have PyTorch."""

import torch
from torch import nn


def randomised(module):
    """The module in evaluation mode, its BatchNorms with statistics and scales of their own."""
    generator = torch.Generator().manual_seed(0)
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            for name, low, high in (("running_mean", -0.3, 0.3), ("running_var", 0.5, 2.0)):
                getattr(each, name).uniform_(low, high, generator=generator)
            with torch.no_grad():
                each.weight.uniform_(0.5, 1.5, generator=generator)
                each.bias.uniform_(-0.2, 0.2, generator=generator)
    return module.eval()
