"""Networks: backbones built from replaceable layers, and the classifier around them."""

from robust_jax.models.base import Classifier, NetworkConfig, Normalization
from robust_jax.models.cnn import CNNConfig, conv_encoder, strided_cnn
from robust_jax.models.layers import Layers, convolution, default_layers
from robust_jax.models.resnet import PreActResNetConfig, ResNetConfig

__all__ = [
    "CNNConfig",
    "Classifier",
    "Layers",
    "NetworkConfig",
    "Normalization",
    "PreActResNetConfig",
    "ResNetConfig",
    "conv_encoder",
    "convolution",
    "default_layers",
    "strided_cnn",
]
