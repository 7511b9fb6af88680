"""Networks: backbones built from replaceable layers, and the classifier around them."""

from robust_jax.models.base import (
    ActivationDtype,
    Backbone,
    Classifier,
    NetworkConfig,
    Normalization,
    SingleNetwork,
)
from robust_jax.models.changes import InputNoise, LayerChange, Mode, Phase
from robust_jax.models.cnn import CNNConfig, conv_encoder, strided_cnn
from robust_jax.models.convolution import convolution
from robust_jax.models.ensemble import EnsembleConfig, member_variables, stack_members
from robust_jax.models.layers import Activation, Conv, Dense, Layers, changed, default_layers
from robust_jax.models.norm import BatchNorm, Framework
from robust_jax.models.pre_act_resnet import PreActResNetConfig
from robust_jax.models.residual import ResidualConfig
from robust_jax.models.resnet import ResNetConfig, verification_resnet
from robust_jax.models.vgg import VGGConfig, imagenet_vgg
from robust_jax.models.wide_resnet import WideResNetConfig

__all__ = [
    "Activation",
    "ActivationDtype",
    "Backbone",
    "BatchNorm",
    "CNNConfig",
    "Classifier",
    "Conv",
    "Dense",
    "EnsembleConfig",
    "Framework",
    "InputNoise",
    "LayerChange",
    "Layers",
    "Mode",
    "NetworkConfig",
    "Normalization",
    "Phase",
    "PreActResNetConfig",
    "ResNetConfig",
    "ResidualConfig",
    "SingleNetwork",
    "VGGConfig",
    "WideResNetConfig",
    "changed",
    "conv_encoder",
    "convolution",
    "default_layers",
    "imagenet_vgg",
    "member_variables",
    "stack_members",
    "strided_cnn",
    "verification_resnet",
]
