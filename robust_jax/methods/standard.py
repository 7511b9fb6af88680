"""The plain network, or the plain ensemble of independently trained members; Gaussian training.

Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019,
train the base classifier of a certificate on images with Gaussian noise of standard deviation
sigma, not clipped, and certify at the same sigma: `input_sigma`.
"""

import dataclasses

from robust_jax import checks
from robust_jax.methods.cross_entropy import CrossEntropy, Reduction
from robust_jax.methods.network import NetworkMethod
from robust_jax.methods.terms import Term
from robust_jax.models import InputNoise, LayerChange
from robust_jax.models.changes import phases


@dataclasses.dataclass(frozen=True)
class Standard(NetworkMethod):
    """A network as it is: the papers' baseline, and the host of adversarial training.

    With an `EnsembleConfig` the members train independently and decide by `vote`.

    Attributes:
        cross_entropy: "sum" of the members' losses, so that each trains as it would alone, or their
            "mean": the same learning rate then moves each by a fraction, as it does in ensembles
            whose loss is a mean (LPD, PDD, DEG) and that are compared with this one.
        input_sigma: standard deviation of Gaussian noise on training images, pixels in [0, 1].
        input_noise_in_prediction: the same noise on in the deployed prediction? A certificate adds
            its own and wants none here.

    Fields beside these are those of `MethodConfig`.

    References:
        Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing",
        ICML 2019: training with `input_sigma`.

    Example:
        >>> from robust_jax.methods import Standard
        >>> from robust_jax.models import EnsembleConfig, ResNetConfig
        >>> from robust_jax.types import Task
        >>> task = Task((32, 32, 3), num_classes=10, num_train=50_000)
        >>> baseline = Standard(EnsembleConfig(ResNetConfig(depth=20), num_members=3)).make(task)
        >>> baseline.stochastic, baseline.vote
        (False, 'mean_probability')
        >>> gaussian = Standard(ResNetConfig(depth=20), input_sigma=0.25)  # for smoothing
        >>> gaussian.samples_in("training"), gaussian.samples_in("prediction")
        (True, False)
    """

    cross_entropy: Reduction = "sum"
    input_sigma: float = 0.0
    input_noise_in_prediction: bool = False

    def __post_init__(self) -> None:
        checks.at_least(self, 0, "input_sigma")
        super().__post_init__()

    @property
    def own_changes(self) -> tuple[LayerChange, ...]:
        """Returns noise on the images."""
        if not self.input_sigma:
            return ()
        when = phases(True, self.input_noise_in_prediction)
        return (InputNoise(self.input_sigma, when=when),)

    @property
    def own_terms(self) -> tuple[Term, ...]:
        """Returns the members' cross-entropies."""
        return (CrossEntropy(self.cross_entropy),)
