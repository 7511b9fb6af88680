"""The models that a network with M weights a unit stands for: one, a step's K, a prediction's N.

Lee et al., "Robust ensemble model training via random layer sampling against adversarial attack",
BMVC 2020, sections 3.1 and 3.2.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from robust_jax import rng, voting
from robust_jax.methods.batch_statistics import cumulative
from robust_jax.methods.network import forward_fn
from robust_jax.methods.sampled_layers import Choose, Index, Unit, sampled_layers
from robust_jax.models import Classifier, LayerChange, Layers
from robust_jax.types import Outputs, Variables


@dataclasses.dataclass(frozen=True)
class SampledModels:
    """What can be drawn of one network, its variables given.

    Attributes:
        network: the classifier with these layers.
        num_choices: M, weights per unit.
        mu: probabilities of the M weights; empty for uniform.
        unit: what is drawn together.
        changes: of the network's layers, which every model has; they draw where a key is given.
    """

    network: Callable[[Layers], Classifier]
    num_choices: int
    mu: tuple[float, ...]
    unit: Unit
    changes: tuple[LayerChange, ...] = ()

    def init(self, key: Key[Array, ""], input_shape: tuple[int, int, int]) -> Variables:
        """Returns fresh variables of all models."""
        layers = sampled_layers(self.num_choices, lambda unit: jnp.zeros((), jnp.int32))
        images = jnp.zeros((1, *input_shape), jnp.float32)
        return dict(self.network(layers).init(key, images, train=False, deterministic=True))

    def draw(self, key: Key[Array, ""] | Key[Array, " b"], *counters: Int[Array, ""]) -> Choose:
        """Returns a sampled model: each unit's index, drawn by its name from this key.

        Args:
            key: of the model, or of each row's own.
            *counters: number of the draw.
        """
        mu = jnp.asarray(self.mu or (1 / self.num_choices,) * self.num_choices)

        def choose(unit: str) -> Index:
            def one(key: Key[Array, ""]) -> Int[Array, ""]:
                drawn = rng.stream(key, "draw", *counters) if counters else key
                # Equation 2: r_l.
                return jax.random.categorical(rng.stream(drawn, unit), jnp.log(mu))

            return jax.vmap(one)(key) if key.ndim else one(key)

        return choose

    def run(
        self,
        choose: Choose,
        variables: Variables,
        images: Array,
        *,
        train: bool,
        key: Key[Array, ""] | None = None,
        averaging: bool = False,
    ) -> tuple[Outputs, Variables]:
        """Returns the outputs of the model that has the chosen weights, and moved collections.

        Args:
            choose: the model.
            variables: of all models.
            images: normalised by their own statistics with `train`.
            train: move the running statistics?
            key: of what is random beside the choice; None for nothing of it.
            averaging: as plain means over batches (`batch_statistics.cumulative`)?
        """
        layers = sampled_layers(self.num_choices, choose, self.unit)
        network = self.network(cumulative(layers) if averaging else layers)
        forward = forward_fn(network, self.changes)
        return forward(variables, images, key=key, train=train, deterministic=key is None)

    def one(self, variables: Variables, images: Array, key: Key[Array, ""]) -> Outputs:
        """Returns the outputs of one drawn model, with the statistics of deployment."""
        noise = rng.stream(key, "noise")
        return self.run(self.draw(key), _deployed(variables), images, train=False, key=noise)[0]

    def mean(
        self,
        variables: Variables,
        images: Array,
        key: Key[Array, ""] | Key[Array, " b"],
        num_draws: int,
    ) -> Float[Array, "b c"]:
        """Returns the log mean probability of N drawn models, one at a time.

        Args:
            variables: of all models.
            images: what they see.
            key: of the draws, or of each row's own.
            num_draws: N.
        """
        variables = _deployed(variables)

        @jax.checkpoint
        def logits(number: Int[Array, ""]) -> Array:
            noise = None if key.ndim else rng.stream(key, "noise", number)
            choose = self.draw(key, number)
            return self.run(choose, variables, images, train=False, key=noise)[0].logits

        return voting.mean_probability(lax.map(logits, jnp.arange(num_draws)))

    def pure(self, variables: Variables, images: Array) -> Float[Array, "m b c"]:
        """Returns the logits of the M models of which model m has the m-th weights everywhere."""
        variables = _deployed(variables)

        @jax.checkpoint
        def logits(number: Int[Array, ""]) -> Array:
            return self.run(lambda unit: number, variables, images, train=False)[0].logits

        return lax.map(logits, jnp.arange(self.num_choices))


def _deployed(variables: Variables) -> Variables:
    """Returns the variables with what a fit made in the place of what training left."""
    found = {name: value for name, value in variables.items() if name != "fitted"}
    return {**found, **variables.get("fitted", {})}
