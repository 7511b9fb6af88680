"""The training step: augmentation, adversarial examples, loss, update, average."""

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key, PyTree

from robust_jax import rng
from robust_jax.attacks import bind
from robust_jax.data import Augmentation, augment
from robust_jax.methods import Method
from robust_jax.methods.base import Metrics
from robust_jax.runtime.compilation import Compiled, at_precision, jitted
from robust_jax.runtime.sharding import batched, replicated
from robust_jax.training.config import AdversarialTraining, FreeAdversarialTraining, TrainingConfig
from robust_jax.training.state import TrainState, state_sharding
from robust_jax.types import Batch, Variables

TrainStep = Compiled[[TrainState, Batch, Key[Array, ""]], tuple[TrainState, Metrics]]
"""(state, batch, root key) -> (state, metrics), compiled."""


def make_train_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    config: TrainingConfig,
    augmentation: Augmentation,
    mesh: Mesh,
) -> TrainStep:
    """Returns the jitted step (state, batch, root key) -> (state, metrics).

    The batch is split over the mesh, the state replicated and donated; XLA sums gradients and
    BatchNorm statistics over all devices, so the number of devices does not change the result.
    The keys of a step are folded from the root key, by name and step.

    Raises:
        ValueError: adversarial training of a view that the method does not have.

    Args:
        method: what is trained.
        optimizer: from `OptimizerConfig.make`, or optax's own.
        config: adversarial examples, perturbed weights, the average.
        augmentation: of the clean images, before an attack sees them.
        mesh: devices.

    Example:
        >>> import optax
        >>> from robust_jax.data import Augmentation, Blobs, DataConfig, open_data, train_batches
        >>> from robust_jax.methods import Standard
        >>> from robust_jax.models import CNNConfig
        >>> from robust_jax.runtime import sharding
        >>> from robust_jax.training import TrainingConfig, init_state, make_train_step
        >>> data, mesh = open_data(DataConfig(Blobs(image_size=4))), sharding.make_mesh(1)
        >>> method = Standard(CNNConfig(widths=(4,), strides=(2,))).make(data.task)
        >>> config, sgd = TrainingConfig(), optax.sgd(0.1)
        >>> state = init_state(jax.jit(method.init)(key=jax.random.key(0)), sgd, config, mesh)
        >>> step = make_train_step(method, sgd, config, Augmentation(), mesh)
        >>> state, metrics = step(state, next(train_batches(data, 8)), jax.random.key(1))
        >>> int(state.step), sorted(metrics)
        (1, ['accuracy', 'gradient_norm', 'loss'])
    """
    adversarial = config.adversarial
    free = adversarial if isinstance(adversarial, FreeAdversarialTraining) else None
    view_name = adversarial.view if isinstance(adversarial, AdversarialTraining) else "train"
    attacked_view = method.view(view_name)

    def step_fn(state: TrainState, batch: Batch, key: Key[Array, ""]) -> tuple[TrainState, Metrics]:
        def stream(name: str, step: Int[Array, ""] = state.step) -> Key[Array, ""]:
            return rng.stream(key, name, step)

        replayed = stream("augment", state.step // config.num_replays)
        clean = images = augment(augmentation, batch.image, key=replayed)
        if isinstance(adversarial, AdversarialTraining):
            view = bind(attacked_view, state.variables)
            images = adversarial.attack(
                view, clean, batch.label, key=stream("attack"), index=batch.index
            )
        elif (
            free is not None
            and state.perturbation is not None
            and state.perturbation.shape == clean.shape
        ):
            images = free.threat.project(clean + state.perturbation, clean)
        params, rest = _split(state.variables)

        def loss_fn(params: PyTree, images: Array) -> tuple[Array, tuple[Variables, Metrics]]:
            return method.loss(
                {"params": params, **rest},
                batch._replace(image=images),
                key=stream("loss"),
                step=state.step,
            )

        where = params
        if config.weight_perturbation:
            slopes, _ = jax.grad(loss_fn, has_aux=True)(params, images)
            where = perturb_weights(params, slopes, config.weight_perturbation)
        wanted = (0,) if free is None else (0, 1)
        loss_and_gradients = jax.value_and_grad(loss_fn, wanted, has_aux=True)
        (loss, (moved, metrics)), (gradients, *slope) = loss_and_gradients(where, images)
        updates, moments = optimizer.update(gradients, state.optimizer, params)
        variables = {"params": optax.apply_updates(params, updates), **rest, **moved}
        average = state.average
        if config.ema_decay is not None:
            average = _moved_average(average, variables, 1 - config.ema_decay)
        perturbation = state.perturbation
        if free is not None:
            perturbation = _ascended(free, images, clean, slope[0]) - clean
        metrics = {"loss": loss, **metrics, "gradient_norm": optax.tree.norm(gradients)}
        return TrainState(state.step + 1, variables, moments, average, perturbation), metrics

    everywhere, states = replicated(mesh), state_sharding(mesh)
    return jitted(
        at_precision(step_fn, config.precision),
        in_shardings=(states, batched(mesh), everywhere),
        out_shardings=(states, everywhere),
        donate_argnums=0,
    )


def _ascended(config: FreeAdversarialTraining, images: Array, clean: Array, slope: Array) -> Array:
    """Returns the images after a step up the loss, in the ball around the clean ones."""
    threat = config.threat
    step_size = threat.eps if config.step_size is None else config.step_size
    return threat.project(threat.ascend(images, slope, step_size), clean)


def perturb_weights(params: PyTree, slopes: PyTree, gamma: float) -> PyTree:
    """Returns the parameters with every kernel moved up the loss by gamma times its own norm.

    A kernel is a convolution's or a linear layer's; of stacked members each has its own norm.

    Args:
        params: the network's parameters.
        slopes: gradients of the loss at them.
        gamma: relative size of the move.

    References:
        Wu, Xia and Wang, "Adversarial weight perturbation helps robust generalization", 2020,
        equation 10, and its code, which takes one step for the perturbation, as here. The code
        lets weight decay act at the perturbed weights, here it acts at the weights as they are.

    Example:
        >>> from robust_jax.training import perturb_weights
        >>> params = {"kernel": jnp.array([[3.0, 4.0]]), "bias": jnp.zeros(2)}  # a norm of 5
        >>> slopes = {"kernel": jnp.array([[0.0, 2.0]]), "bias": jnp.ones(2)}
        >>> moved = perturb_weights(params, slopes, gamma=0.01)
        >>> moved["kernel"], moved["bias"]
        (Array([[3.  , 4.05]], dtype=float32), Array([0., 0.], dtype=float32))
    """

    def move(path: tuple[object, ...], weight: Array, slope: Array) -> Array:
        if getattr(path[-1], "key", None) != "kernel":
            return weight
        axes = tuple(range(-4 if weight.ndim >= 4 else -2, 0))

        def norm(array: Array) -> Array:
            return jnp.sqrt(jnp.sum(jnp.square(array), axes, keepdims=True))

        return weight + gamma * norm(weight) * slope / (norm(slope) + 1e-20)

    return jax.tree_util.tree_map_with_path(move, params, slopes)


def _moved_average(average: Variables, variables: Variables, share: float) -> Variables:
    """Returns the average moved towards the parameters and running statistics."""
    names = variables.keys() & {"params", "batch_stats"}

    def kept(new: Array, old: Array, moved: Array) -> Array:
        # Of equal values it is that value: a frozen parameter's does not wander by roundings.
        return jnp.where(new == old, old, moved)

    def moved(new: PyTree, old: PyTree) -> PyTree:
        return jax.tree.map(kept, new, old, optax.incremental_update(new, old, share))

    return {
        name: moved(value, average[name]) if name in names else value
        for name, value in variables.items()
    }


def _split(variables: Variables) -> tuple[PyTree, Variables]:
    rest = {name: value for name, value in variables.items() if name != "params"}
    return variables["params"], rest
