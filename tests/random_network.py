"""Networks as training leaves them, without training: every parameter and statistic is random, and
the statistics fit the images."""

import copy
import functools

import torch
from torch import nn

from hmc_fast.data.phantom import open_phantom
from hmc_fast.data.preprocessing import Preprocessing
from hmc_fast.models import create_model
from hmc_fast.models.network import HMCNet


@functools.cache
def phantom_images(count, size=64):
    """(count, 3, size, size) float32 in [-1, 1]."""
    phantom, preprocessing = open_phantom(-(-count // 2), size=size), Preprocessing(size)
    return torch.cat([preprocessing(phantom.read(i)) for i in range(count)])


def random_network(variant="hmc", dtype=torch.float64):
    """A copy, in eval mode; gammas of either sign, logits of about one unit."""
    return copy.deepcopy(_random_network(variant)).to(dtype)


@functools.cache
def _random_network(variant):
    torch.manual_seed(0)
    return randomized(create_model(variant))


def small_network(dtype=torch.float64):
    """HMC-Net with one bottleneck block a stage, a copy."""
    return copy.deepcopy(_small_network()).to(dtype)


@functools.cache
def _small_network():
    torch.manual_seed(0)
    return randomized(HMCNet(layers=(1, 1, 1, 1)))


@torch.no_grad()
def randomized(model):
    """The last norm of a bottleneck is small, as in training: its block adds little to its
    shortcut, and rounding errors do not grow from block to block."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            parameter.copy_(torch.randn(1, generator=generator))
    for name, norm in model.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            size = 0.2 if name.endswith("bn3") else 1
            norm.weight.uniform_(0.5 * size, 1.5 * size, generator=generator)
            norm.bias.normal_(0, 0.3 * size, generator=generator)
            norm.eps, norm.momentum = 1e-3, None  # a cumulative average
    images = phantom_images(64)
    model.train()(images)
    model.eval().fc.weight.mul_(0.5 / model(images).std(0).mean())
    model.fc.bias.sub_(model(images).mean(0))
    return model
