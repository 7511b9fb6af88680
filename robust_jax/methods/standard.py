"""The plain network, or the plain ensemble of independently trained members; Gaussian training.

Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019,
train the base classifier of a certificate on images with Gaussian noise of standard deviation
sigma, not clipped, and certify at the same sigma: `input_sigma`.
"""

import dataclasses

from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.network import (
    Reduction,
    Sampling,
    check_reduction,
    classifier,
    network_method,
)
from robust_jax.models import default_layers
from robust_jax.types import Task


@dataclasses.dataclass(frozen=True)
class Standard(MethodConfig):
    """A network as it is: the papers' baseline, and the host of adversarial training.

    With an `EnsembleConfig` the members train independently and decide by `vote`.

    Attributes:
        cross_entropy: "sum" of the members' losses, so that each trains as it would alone, or their
            "mean": the same learning rate then moves each by a fraction, as it does in ensembles
            whose loss is a mean (LPD, PDD, DEG) and that are compared with this one.
        input_sigma: standard deviation of Gaussian noise on training images.
        input_noise_in_prediction: the same noise on in the deployed prediction? A certificate adds
            its own and wants none here.
    """

    cross_entropy: Reduction = "sum"
    input_sigma: float = 0.0
    input_noise_in_prediction: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reduction(self.cross_entropy)
        if self.input_sigma < 0:
            raise ValueError(f"Expected input_sigma={self.input_sigma} >= 0.")

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset; its views are those of `network_method`."""
        noisy = Sampling(input_noise=self.input_sigma)
        return network_method(
            classifier(self, task, default_layers()),
            self,
            task,
            training=noisy,
            prediction=noisy if self.input_noise_in_prediction else Sampling(),
            reduction=self.cross_entropy,
        )
