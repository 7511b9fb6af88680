"""Optimizers and learning-rate schedules: optax, with weight decay as the papers' frameworks do."""

import dataclasses
import operator
from collections.abc import Callable, Hashable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from robust_jax import checks
from robust_jax.training import groups


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Constant factor on the learning rate; subclasses vary it. Epochs count the whole run."""

    def make(self, step_at: Callable[[float], int], num_epochs: float) -> optax.Schedule:
        """Returns the factor as a function of the step.

        Args:
            step_at: the first step of an epoch (phases may change the batch size).
            num_epochs: length of the run.
        """
        del step_at, num_epochs
        return optax.constant_schedule(1.0)


@dataclasses.dataclass(frozen=True)
class MultiStep(Schedule):
    """Multiplies by `factor` at each of `epochs` (PyTorch's MultiStepLR).

    The first `warmup` epochs grow linearly from 0.

    Attributes:
        epochs: at whose starts the factor falls.
        factor: of each fall.
        warmup: epochs of linear growth from 0.

    Raises:
        ValueError: a number is negative.

    Example:
        >>> from robust_jax.training.optimizers import MultiStep
        >>> steps = MultiStep(epochs=(100.0, 150.0))
        >>> factor = steps.make(lambda epoch: int(390 * epoch), num_epochs=200.0)
        >>> [round(float(factor(390 * epoch)), 3) for epoch in (50, 120, 180)]
        [1.0, 0.1, 0.01]
    """

    epochs: tuple[float, ...] = ()
    factor: float = 0.1
    warmup: float = 0.0

    def __post_init__(self) -> None:
        checks.at_least(self, 0, "epochs", "factor", "warmup")

    def make(self, step_at: Callable[[float], int], num_epochs: float) -> optax.Schedule:
        """Returns the factor as a function of the step."""
        boundaries: dict[int, float] = {}
        for step in (step_at(epoch) for epoch in self.epochs if epoch < num_epochs):
            boundaries[step] = boundaries.get(step, 1.0) * self.factor
        steps, warmup = optax.piecewise_constant_schedule(1.0, boundaries), step_at(self.warmup)
        if warmup == 0:
            return steps
        return lambda step: steps(step) * jnp.minimum(step / warmup, 1.0)


@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 to `final` over the run, after `warmup` epochs of linear growth.

    Attributes:
        warmup: epochs of linear growth from 0.
        final: factor at the end of the run.

    Raises:
        ValueError: a number is negative, or (of a run) it ends before the growth.

    Example:
        >>> from robust_jax.training.optimizers import Cosine
        >>> factor = Cosine().make(lambda epoch: int(390 * epoch), num_epochs=200.0)
        >>> [round(float(factor(390 * epoch)), 3) for epoch in (0, 100, 200)]
        [1.0, 0.5, 0.0]
    """

    warmup: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        checks.at_least(self, 0, "warmup", "final")

    def make(self, step_at: Callable[[float], int], num_epochs: float) -> optax.Schedule:
        """Returns the factor as a function of the step."""
        end = max(step_at(num_epochs), 1)
        warmup = step_at(self.warmup)
        if warmup == 0:
            return optax.cosine_decay_schedule(1.0, end, alpha=self.final)
        if warmup >= end:
            raise ValueError(f"Expected warmup={self.warmup} < {num_epochs}, the run's epochs.")
        return optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, end, end_value=self.final)


@dataclasses.dataclass(frozen=True)
class PiecewiseLinear(Schedule):
    """Linear between `factors` at `epochs`: cyclic rates, warm-up, Fast-AT's phases.

    Attributes:
        epochs: where the factor is given, ascending.
        factors: at each of them.

    Raises:
        ValueError: epochs that do not ascend, or are not as many as the factors; there are none, or
            one is negative.

    Example:
        >>> from robust_jax.training.optimizers import PiecewiseLinear
        >>> cyclic = PiecewiseLinear(epochs=(0.0, 6.0, 15.0), factors=(0.0, 1.0, 0.0))
        >>> factor = cyclic.make(lambda epoch: int(390 * epoch), num_epochs=15.0)
        >>> [round(float(factor(390 * epoch)), 3) for epoch in (3, 6, 15)]
        [0.5, 1.0, 0.0]
    """

    epochs: tuple[float, ...] = (0.0, 1.0)
    factors: tuple[float, ...] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if len(self.epochs) != len(self.factors) or list(self.epochs) != sorted(self.epochs):
            raise ValueError(
                f"Expected epochs={self.epochs} to ascend, one for each of factors={self.factors}."
            )
        if not self.epochs:
            raise ValueError("Expected epochs=() to name one.")
        checks.at_least(self, 0, "epochs", "factors")

    def make(self, step_at: Callable[[float], int], num_epochs: float) -> optax.Schedule:
        """Returns the factor as a function of the step."""
        steps = jnp.asarray([step_at(epoch) for epoch in self.epochs], jnp.float32)
        factors = jnp.asarray(self.factors, jnp.float32)
        return lambda step: jnp.interp(jnp.asarray(step, jnp.float32), steps, factors)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer of a run.

    Attributes:
        name: "sgd" (with `momentum`), "adam" or "adamw".
        learning_rate: base rate, multiplied by the schedule's factor.
        momentum: of SGD, PyTorch's form: v = momentum v + g; p = p - rate v.
        nesterov: Nesterov's momentum, PyTorch's form.
        weight_decay: for "sgd" and "adam" coupled L2 (PyTorch): decay times the parameter is
            added to the gradient before momentum and moments. Keras' l2(c) is weight_decay = 2c.
            For "adamw" the decoupled decay of Loshchilov and Hutter (2019).
        decay: which parameters decay: "all" (PyTorch's default) or convolution "kernels" only
            (the Keras recipes).
        undecayed: names of parameters that do not decay whatever `decay` says (BatchEnsemble's
            fast weights "r" and "s"), as in `frozen`.
        epsilon: in the denominator of "adam" and "adamw".
        clip_norm: largest global gradient norm; None for no clipping.
        schedule: factor on the learning rate over the run.
        frozen: names of parameters that stay as they are, bit for bit: of an array ("bias"), a
            layer ("conv1"), a block, or a path of them ("layer1_0.conv1.kernel"), where "*" stands
            for any part of a name ("layer1_*"). Running statistics are no parameters: they follow
            the batches, whatever is frozen.
        rates: base learning rates of groups of parameters, by such names, in the place of
            `learning_rate` and with the same schedule; a group's frozen parameters stay frozen.

    Example:
        >>> from robust_jax.training.optimizers import MultiStep, OptimizerConfig
        >>> rice = OptimizerConfig(
        ...     learning_rate=0.1, weight_decay=5e-4, schedule=MultiStep(epochs=(100.0, 150.0))
        ... )
        >>> head_faster = OptimizerConfig(learning_rate=0.01, rates={"linear": 0.1})
        >>> OptimizerConfig(momentum=1.0)
        Traceback (most recent call last):
            ...
        ValueError: Expected 0 <= momentum=1.0 < 1.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    decay: Literal["all", "kernels"] = "all"
    undecayed: tuple[str, ...] = ()
    epsilon: float = 1e-8
    clip_norm: float | None = None
    schedule: Schedule = Schedule()
    frozen: tuple[str, ...] = ()
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.learning_rate < 0:
            raise ValueError(f"Expected learning_rate={self.learning_rate} >= 0.")
        for name, rate in self.rates.items():
            if not rate >= 0:
                raise ValueError(f"Expected rates={{{name!r}: {rate}}} >= 0.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"Expected 0 <= momentum={self.momentum} < 1.")
        if self.weight_decay < 0:
            raise ValueError(f"Expected weight_decay={self.weight_decay} >= 0.")
        if self.epsilon <= 0:
            raise ValueError(f"Expected epsilon={self.epsilon} > 0.")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"Expected clip_norm={self.clip_norm} > 0.")

    def rate(self, step_at: Callable[[float], int], num_epochs: float) -> optax.Schedule:
        """Returns the learning rate as a function of the step."""
        factor = self.schedule.make(step_at, num_epochs)
        return lambda step: self.learning_rate * factor(jnp.asarray(step, jnp.float32))

    def make(
        self, step_at: Callable[[float], int], num_epochs: float
    ) -> optax.GradientTransformation:
        """Returns the optax transformation of this configuration.

        Its `init` raises ValueError where a name of `undecayed`, `frozen` or `rates` occurs
        nowhere, or a parameter belongs to two groups; shapes are enough for it.
        """
        clip = optax.clip_by_global_norm(self.clip_norm) if self.clip_norm else optax.identity()
        mask = self._decaying if self.decay == "kernels" or self.undecayed else None
        decay = optax.add_decayed_weights(self.weight_decay, mask)
        # Pieces of optax's own `sgd`, `adam` and `adamw`, but for the rate.
        rate = self._by_rates(step_at, num_epochs)
        if self.name == "adamw":
            moments = optax.chain(optax.scale_by_adam(eps=self.epsilon), decay, rate)
            return self._of_what_moves(optax.chain(clip, moments))
        decay = decay if self.weight_decay else optax.identity()
        direction = optax.identity()
        if self.name == "adam":
            direction = optax.scale_by_adam(eps=self.epsilon)
        elif self.momentum:
            direction = optax.trace(self.momentum, nesterov=self.nesterov)
        return self._of_what_moves(optax.chain(clip, decay, optax.chain(direction, rate)))

    def _by_rates(
        self, step_at: Callable[[float], int], num_epochs: float
    ) -> optax.GradientTransformation:
        """Returns the update's last piece: minus the learning rate, each group's own."""
        names = tuple(self.rates)
        bases = (self.learning_rate, *self.rates.values())
        scales: dict[Hashable, optax.GradientTransformation] = {
            number: optax.scale_by_learning_rate(
                dataclasses.replace(self, learning_rate=base).rate(step_at, num_epochs)
            )
            for number, base in enumerate(bases)
        }
        if not names:
            return scales[0]
        return optax.multi_transform(scales, lambda params: groups.numbers(params, names))

    def _of_what_moves(self, whole: optax.GradientTransformation) -> optax.GradientTransformation:
        """Returns the optimizer of the parameters that are not frozen, its names checked."""

        def moving(params: PyTree) -> PyTree:
            return groups.moving(params, self.frozen)

        def still(params: PyTree) -> PyTree:
            return jax.tree.map(operator.not_, moving(params))

        inner = whole
        if self.frozen:
            inner = optax.chain(
                optax.masked(whole, moving), optax.masked(optax.set_to_zero(), still)
            )

        def init(params: PyTree) -> PyTree:
            for field in ("undecayed", "frozen", "rates"):
                groups.check_names(params, field, tuple(getattr(self, field)))
            return inner.init(params)

        return optax.GradientTransformation(init, inner.update)

    def _decaying(self, params: PyTree) -> PyTree:
        """Returns a tree, True at what decays.

        Convolution kernels are of rank 4, or 5 in stacked ensembles.
        """

        def decays(path: groups.Path, leaf: Array) -> bool:
            kernel = getattr(path[-1], "key", None) == "kernel" and leaf.ndim >= 4
            kept = any(groups.is_named(path, name) for name in self.undecayed)
            return (kernel or self.decay == "all") and not kept

        return jax.tree_util.tree_map_with_path(decays, params)
