"""The plain network, or the plain ensemble of independently trained members."""

import dataclasses

from robust_jax.methods.base import Method, MethodConfig, classifier, network_method
from robust_jax.models import default_layers
from robust_jax.types import Task


@dataclasses.dataclass(frozen=True)
class Standard(MethodConfig):
    """A network as it is: the papers' baseline, and the host of adversarial training.

    With an `EnsembleConfig` the members train independently and decide by `vote`.
    """

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset; its views are those of `network_method`."""
        return network_method(classifier(self, task, default_layers()), self, task)
