"""Ensembles: one module, a leading member axis, the same numbers whichever way members run."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.models import (
    Classifier,
    CNNConfig,
    EnsembleConfig,
    Normalization,
    default_layers,
    member_variables,
    stack_members,
)

MODE = {"train": False, "deterministic": True}
MEMBER = CNNConfig(widths=(4,), strides=(2,))
NORMALIZATION = Normalization(mean=(0.5,) * 3, std=(0.25,) * 3)
IMAGES = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
STRATEGIES = ("map", "unroll", "vmap")


class NoisyActivation(nn.Module):
    """Adds noise to what it passes on."""

    kind: str = "relu"
    negative_slope: float = 0.01

    @nn.compact
    def __call__(self, x, *, train, deterministic):
        x = nn.relu(x)
        if deterministic:
            return x
        return x + jax.random.normal(self.make_rng("sample"), x.shape, x.dtype)


def classifier(config):
    layers = default_layers()._replace(act=NoisyActivation)
    return Classifier(backbone=config.make(5, layers), normalization=NORMALIZATION)


@functools.cache
def results(strategy):
    """Returns fresh variables, and everything a strategy computes from those of "map"."""
    network = classifier(EnsembleConfig(member=MEMBER, num_members=3, strategy=strategy))
    fresh = jax.jit(functools.partial(network.init, **MODE))(jax.random.key(1), IMAGES)
    variables = fresh if strategy == "map" else results("map")[0]

    @jax.jit
    def run(variables):
        def loss(params):
            outputs, moved = network.apply(
                {**variables, "params": params},
                IMAGES,
                train=True,
                deterministic=False,
                rngs={"sample": jax.random.key(2)},
                mutable=["batch_stats"],
            )
            return jnp.sum(outputs.member_logits**2), (outputs, moved)

        gradient, found = jax.grad(loss, has_aux=True)(variables["params"])
        return network.apply(variables, IMAGES, **MODE), found, gradient

    return fresh, run(variables)


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [pytest.param(s, marks=pytest.mark.slow) if s == "unroll" else s for s in STRATEGIES[1:]],
)
def test_strategies_agree(strategy):
    ours, theirs = results(strategy), results("map")
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4), ours, theirs)


def test_variables_have_a_member_axis_and_members_start_apart():
    variables, _ = results("map")
    for collection in ("params", "batch_stats"):
        for leaf in jax.tree.leaves(variables[collection]):
            assert leaf.shape[0] == 3
    kernel = variables["params"]["backbone"]["member"]["conv1"]["kernel"]
    assert np.min(np.abs(kernel[0] - kernel[1])) > 0
    np.testing.assert_allclose(variables["constants"]["mean"], [0.5] * 3)


def test_outputs_are_stacked_over_members():
    _, (outputs, (noisy, moved), _) = results("map")
    assert outputs.member_logits.shape == (3, 2, 5)
    assert outputs.features.shape == (3, 2, 4)
    assert {name: tap.shape for name, tap in outputs.taps.items()} == {
        "00.conv1": (3, 2, 4, 4, 4),
        "01.head": (3, 2, 5),
    }
    np.testing.assert_allclose(outputs.logits, outputs.member_logits.mean(0), rtol=1e-5, atol=1e-6)
    mean = moved["batch_stats"]["backbone"]["member"]["norm1"]["mean"]
    np.testing.assert_allclose(mean, 0.1 * noisy.taps["00.conv1"].mean((1, 2, 3)), atol=1e-5)


def test_a_member_alone_is_that_member():
    variables, (outputs, _, _) = results("map")
    alone = classifier(MEMBER)
    apply = jax.jit(functools.partial(alone.apply, **MODE))
    for member in range(3):
        single = apply(member_variables(variables, member), IMAGES)
        np.testing.assert_allclose(single.logits, outputs.member_logits[member], atol=1e-5)
        np.testing.assert_allclose(
            single.taps["00.conv1"], outputs.taps["00.conv1"][member], atol=1e-5
        )


def test_stacking_members_undoes_taking_them_apart():
    variables, _ = results("map")
    again = stack_members([member_variables(variables, member) for member in range(3)])
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_members_draw_independently():
    """The same weights three times over give three different noisy outputs."""
    variables, _ = results("map")
    same = stack_members([member_variables(variables, 0)] * 3)
    network = classifier(EnsembleConfig(member=MEMBER, num_members=3))
    outputs = jax.jit(functools.partial(network.apply, train=False, deterministic=False))(
        same, IMAGES, rngs={"sample": jax.random.key(5)}
    )
    a, b, c = outputs.member_logits
    for difference in (a - b, b - c, a - c):
        assert np.min(np.abs(difference)) > 0


def test_features_may_be_changed_between_for_all_members_at_once():
    variables, (outputs, _, _) = results("map")
    network = classifier(EnsembleConfig(member=MEMBER, num_members=3))
    features, _ = network.apply(variables, IMAGES, method="features", **MODE)
    np.testing.assert_allclose(features, outputs.features, atol=1e-5)
    keep = jnp.array([1.0, 0.0, 1.0])[:, None, None]
    logits = network.apply(variables, features * keep, method="head", **MODE)
    np.testing.assert_allclose(logits[0], outputs.member_logits[0], atol=1e-5)
    bias = variables["params"]["backbone"]["member"]["linear"]["bias"][1]
    np.testing.assert_allclose(logits[1], np.stack([bias, bias]), atol=1e-6)


def test_bad_fields():
    with pytest.raises(ValueError, match="Expected num_members=0 >= 1"):
        EnsembleConfig(member=MEMBER, num_members=0)
    with pytest.raises(ValueError, match="Expected member of class EnsembleConfig to be a single"):
        EnsembleConfig(member=EnsembleConfig(member=MEMBER))
    variables, _ = results("map")
    with pytest.raises(ValueError, match="Expected 0 <= member=3 < 3"):
        member_variables(variables, 3)
    with pytest.raises(ValueError, match="not to be empty"):
        stack_members([])
