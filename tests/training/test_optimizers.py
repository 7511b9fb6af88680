"""Optimizers step as PyTorch's do; schedules count in epochs."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import numpy_dtype_promotion

from robust_jax.training import groups
from robust_jax.training.optimizers import Cosine, MultiStep, OptimizerConfig, PiecewiseLinear

PARAMS = {"conv": {"kernel": np.linspace(-1, 1, 8).reshape(1, 2, 2, 2)}, "bias": np.array([0.5])}
GRADIENTS = [
    {"conv": {"kernel": np.cos(np.arange(8) + t).reshape(1, 2, 2, 2)}, "bias": np.array([t - 1.0])}
    for t in range(3)
]


def run(config, steps=GRADIENTS):
    optimizer = config.make(lambda epoch: round(10 * epoch), 3.0)
    params = {"conv": {"kernel": jnp.asarray(PARAMS["conv"]["kernel"], jnp.float32)},
              "bias": jnp.asarray(PARAMS["bias"], jnp.float32)}  # fmt: skip
    state = optimizer.init(params)
    for gradients in steps:
        gradients = {"conv": {"kernel": jnp.asarray(gradients["conv"]["kernel"], jnp.float32)},
                     "bias": jnp.asarray(gradients["bias"], jnp.float32)}  # fmt: skip
        # optax's Adam raises a float to an integer power, which strict promotion forbids.
        with numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_pytorch_s(nesterov):
    """V = momentum v + (g + decay p); p = p - rate v, or p - rate (g + momentum v)."""
    config = OptimizerConfig(learning_rate=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    found = run(config)
    for path in (("conv", "kernel"), ("bias",)):
        p, velocity = PARAMS, 0.0
        for name in path:
            p = p[name]
        for gradients in GRADIENTS:
            g = gradients
            for name in path:
                g = g[name]
            g = g + 0.01 * p
            velocity = 0.9 * velocity + g
            p = p - 0.1 * (g + 0.9 * velocity if nesterov else velocity)
        value = found
        for name in path:
            value = value[name]
        np.testing.assert_allclose(value, p, rtol=1e-5)


def test_adam_with_coupled_decay():
    found = run(OptimizerConfig("adam", learning_rate=0.01, weight_decay=0.1, epsilon=0.5))["bias"]
    p, first, second = PARAMS["bias"], 0.0, 0.0
    for t, gradients in enumerate(GRADIENTS, 1):
        g = gradients["bias"] + 0.1 * p
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        p = p - 0.01 * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 0.5)
    np.testing.assert_allclose(found, p, rtol=1e-4)


def test_kernels_alone_decay_where_asked():
    plain = run(OptimizerConfig())
    kernels = run(OptimizerConfig(weight_decay=0.1, decay="kernels"))
    np.testing.assert_array_equal(plain["bias"], kernels["bias"])
    assert bool(jnp.any(plain["conv"]["kernel"] != kernels["conv"]["kernel"]))
    decoupled = run(OptimizerConfig("adamw", weight_decay=0.1, decay="kernels"))
    np.testing.assert_array_equal(decoupled["bias"], run(OptimizerConfig("adam"))["bias"])


def test_parameters_that_do_not_decay():
    """BatchEnsemble's fast weights: without a gradient they stay, and the others shrink."""
    config = OptimizerConfig(learning_rate=1.0, weight_decay=0.1, undecayed=("r", "s"))
    params = {"conv": {name: jnp.ones(2) for name in ("kernel", "r", "s", "bias")}}
    optimizer = config.make(round, 1.0)
    still = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(still, optimizer.init(params), params)
    expected = {name: 0.0 if name in "rs" else -0.1 for name in params["conv"]}
    found = {name: float(value[0]) for name, value in updates["conv"].items()}
    assert found == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"undecayed=\['r', 's'\] to be names of parameters"):
        config.make(round, 1.0).init({"kernel": jnp.ones(2)})


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_groups_have_rates_of_their_own_and_the_frozen_stays(name):
    """What moves is moved as by an optimizer of its own, of that rate and of nothing frozen."""
    config = OptimizerConfig(name, learning_rate=0.1, weight_decay=0.1, schedule=MultiStep((0.1,)))
    plain, slow = run(config), run(dataclasses.replace(config, learning_rate=0.02))
    both = run(dataclasses.replace(config, rates={"conv": 0.02}))
    chex.assert_trees_all_equal(both, {"conv": slow["conv"], "bias": plain["bias"]})
    still = run(dataclasses.replace(config, rates={"conv": 0.02}, frozen=("bias",)))
    np.testing.assert_array_equal(still["bias"], np.float32(PARAMS["bias"]))
    # Adam's bias correction is a program of the whole tree: one without the bias rounds otherwise.
    chex.assert_trees_all_close(still["conv"], slow["conv"], rtol=1e-6)
    # By hand, one step of SGD: p - rate (g + decay p).
    if name == "sgd":
        p, g = PARAMS["conv"]["kernel"], GRADIENTS[0]["conv"]["kernel"]
        once = run(dataclasses.replace(config, rates={"kernel": 0.02}), GRADIENTS[:1])
        np.testing.assert_allclose(once["conv"]["kernel"], p - 0.02 * (g + 0.1 * p), rtol=1e-5)


def test_clipping_counts_what_moves():
    """The norm of [3, 4] is 5, over both groups; of the frozen nothing counts."""
    config = OptimizerConfig(
        learning_rate=1.0, momentum=0.0, clip_norm=0.5, frozen=("c",), rates={"b": 2.0}
    )
    params = {name: jnp.ones(1) for name in "abc"}
    gradients = {"a": jnp.array([3.0]), "b": jnp.array([4.0]), "c": jnp.array([100.0])}
    optimizer = config.make(round, 1.0)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    expected = {
        name: jnp.array([value]) for name, value in {"a": -0.3, "b": -0.8, "c": 0.0}.items()
    }
    chex.assert_trees_all_close(updates, expected, rtol=1e-5)


def test_names_of_parameters():
    layers = {"layer1_0": {"conv1": {"kernel": 0}}, "layer1_1": {"conv1": {"kernel": 0}}}
    params = {"backbone": {**layers, "linear": {"kernel": 0, "bias": 0}}}
    found = {
        name: sum(jax.tree.leaves(groups.numbers(params, (name,))))
        for name in (
            "conv1",
            "layer1_0.conv1",
            "layer1_*",
            "kernel",
            "backbone",
            "linear.b*",
            "ear",
        )
    }
    assert list(found.values()) == [2, 1, 2, 3, 4, 1, 0]

    def refused(message, **fields):
        shapes = jax.tree.map(lambda _: jax.ShapeDtypeStruct((2,), jnp.float32), params)
        with pytest.raises(ValueError, match=message) as error:
            jax.eval_shape(OptimizerConfig(**fields).make(round, 1.0).init, shapes)
        assert "\n" not in str(error.value)

    refused(r"frozen=\['conv9', 'line'\] to be names of param", frozen=("line", "conv1", "conv9"))
    refused(r"rates=\['conv9'\] to be names of parameters, of \['conv1',", rates={"conv9": 1.0})
    refused(r"undecayed=\['r'\] to be names", undecayed=("r",), frozen=("conv1",))
    refused(r"rates=\['conv1', 'layer1_0'\] to be of different parameters, not backbone.layer1_0",
            rates={"conv1": 1.0, "layer1_0": 1.0})  # fmt: skip
    refused(r"frozen=\['backbone'\] to leave a parameter that moves", frozen=("backbone",))


def test_clipping_scales_the_gradient():
    config = OptimizerConfig(learning_rate=1.0, momentum=0.0, clip_norm=0.5)
    optimizer = config.make(lambda epoch: round(epoch), 1.0)
    updates, _ = optimizer.update({"a": jnp.array([3.0, 4.0])}, optimizer.init({"a": jnp.ones(2)}))
    chex.assert_trees_all_close(updates, {"a": jnp.array([-0.3, -0.4])}, rtol=1e-5)


def test_schedules_count_in_epochs():
    def step_at(epoch):
        return round(10 * epoch)

    multi = OptimizerConfig(schedule=MultiStep(epochs=(1.0, 2.0))).rate(step_at, 3.0)
    assert [float(multi(s)) for s in (0, 9, 10, 20)] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    warm = OptimizerConfig(schedule=MultiStep(epochs=(2.0,), warmup=1.0)).rate(step_at, 3.0)
    found = [float(warm(s)) for s in (0, 5, 10, 19, 20)]
    assert found == pytest.approx([0, 0.05, 0.1, 0.1, 0.01])
    cosine = OptimizerConfig(schedule=Cosine(warmup=1.0)).rate(step_at, 3.0)
    assert [float(cosine(s)) for s in (0, 5, 10, 20, 30)] == pytest.approx([0, 0.05, 0.1, 0.05, 0])
    linear = OptimizerConfig(
        schedule=PiecewiseLinear(epochs=(0.0, 1.0, 3.0), factors=(0.0, 2.0, 0.0))
    ).rate(step_at, 3.0)
    assert [float(linear(s)) for s in (0, 5, 10, 20, 30)] == pytest.approx([0, 0.1, 0.2, 0.1, 0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerConfig(learning_rate=-0.1), "Expected learning_rate=-0.1 >= 0."),
        (lambda: OptimizerConfig(momentum=1.0), "Expected 0 <= momentum=1.0 < 1."),
        (lambda: OptimizerConfig(weight_decay=-1.0), "Expected weight_decay=-1.0 >= 0."),
        (lambda: OptimizerConfig(rates={"a": -1.0}), "Expected rates={'a': -1.0} >= 0."),
        (lambda: OptimizerConfig(clip_norm=0.0), "Expected clip_norm=0.0 > 0."),
        (lambda: PiecewiseLinear(epochs=(1.0, 0.0)), "to ascend, one for each of"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
