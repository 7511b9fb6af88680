"""The training step: augmentation, adversarial examples, loss, update, average."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from robust_jax import rng
from robust_jax.attacks import bind
from robust_jax.config import TrainingConfig
from robust_jax.data import Augmentation, augment
from robust_jax.methods import Method
from robust_jax.sharding import batched, replicated
from robust_jax.training.state import TrainState
from robust_jax.types import Batch, Variables

Metrics = dict[str, Float[Array, ""]]


def make_train_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    config: TrainingConfig,
    augmentation: Augmentation,
    mesh: Mesh,
) -> Callable[[TrainState, Batch, Key[Array, ""]], tuple[TrainState, Metrics]]:
    """Returns the jitted step (state, batch, root key) -> (state, metrics).

    The batch is split over the mesh, the state replicated and donated; XLA sums gradients and
    BatchNorm statistics over all devices, so the number of devices does not change the result.
    The keys of a step are folded from the root key, by name and step.

    Raises:
        ValueError: adversarial training of a view that the method does not have.
    """
    adversarial = config.adversarial
    attacked_view = method.view("train" if adversarial is None else adversarial.view)

    def step_fn(state: TrainState, batch: Batch, key: Key[Array, ""]) -> tuple[TrainState, Metrics]:
        def stream(name: str) -> Key[Array, ""]:
            return rng.stream(key, name, state.step)

        images = augment(augmentation, batch.image, key=stream("augment"))
        if adversarial is not None:
            view = bind(attacked_view, state.variables)
            images = adversarial.attack(
                view, images, batch.label, key=stream("attack"), index=batch.index
            )
        batch = batch._replace(image=images)
        params, rest = _split(state.variables)

        def loss_fn(params):
            return method.loss(
                {"params": params, **rest}, batch, key=stream("loss"), step=state.step
            )

        (loss, (moved, metrics)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, moments = optimizer.update(gradients, state.optimizer, params)
        variables = {"params": optax.apply_updates(params, updates), **rest, **moved}
        average = state.average
        if config.ema_decay is not None:
            average = _moved_average(average, variables, 1 - config.ema_decay)
        metrics = {"loss": loss, **metrics, "gradient_norm": optax.tree.norm(gradients)}
        return TrainState(state.step + 1, variables, moments, average), metrics

    everywhere = replicated(mesh)
    return jax.jit(
        step_fn,
        in_shardings=(everywhere, batched(mesh), everywhere),
        out_shardings=(everywhere, everywhere),
        donate_argnums=0,
    )


def _moved_average(average: Variables, variables: Variables, share: float) -> Variables:
    """Returns the average moved towards the parameters and running statistics."""
    names = variables.keys() & {"params", "batch_stats"}
    return {
        name: optax.incremental_update(value, average[name], share) if name in names else value
        for name, value in variables.items()
    }


def _split(variables: Variables) -> tuple[Variables, Mapping[str, Any]]:
    rest = {name: value for name, value in variables.items() if name != "params"}
    return variables["params"], rest
