"""Cosines against NumPy, members one by one against the ensemble, the convolutions that count."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.methods.gradient_diversity import pairwise_cosines
from robust_jax.methods.layer_calls import first_convolutions
from robust_jax.methods.runs import Member
from robust_jax.models import (
    Classifier,
    CNNConfig,
    EnsembleConfig,
    Normalization,
    ResNetConfig,
    default_layers,
)
from robust_jax.models.ensemble import map_members, of_ensemble

NORMALIZATION = Normalization(mean=(0.4,), std=(0.3,))
IMAGES = jax.random.uniform(jax.random.key(0), (4, 6, 6, 1))


def cosine(u, v):
    return float(np.dot(u, v) / np.linalg.norm(u) / np.linalg.norm(v))


def test_pairwise_cosines_by_hand():
    vectors = jnp.asarray([[3.0, 0.0], [1.0, 1.0], [-2.0, 0.0]])[:, None, :]
    found = jax.jit(pairwise_cosines)(vectors)
    half = 0.5**0.5
    np.testing.assert_allclose(found.cosine[:, 0], [half, -1.0, -half], rtol=1e-6)
    assert not found.dead.any()


def test_vanishing_vectors_have_a_direction_and_zero_ones_none():
    vectors = jnp.asarray([[[1e-30, 2e-30], [0.0, 0.0]], [[3.0, -1.0], [1.0, 2.0]]])
    value, slope = jax.jit(jax.value_and_grad(lambda x: jnp.sum(pairwise_cosines(x).cosine)))(
        vectors
    )
    assert float(value) == pytest.approx(cosine([1, 2], [3, -1]), rel=1e-5)
    assert bool(jnp.all(jnp.isfinite(slope)))
    np.testing.assert_array_equal(pairwise_cosines(vectors).dead, [[False, True], [False, False]])
    # Against eps the same vectors are nothing.
    assert float(jnp.sum(pairwise_cosines(vectors, eps=1e-12).cosine)) == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_gradient_through_the_norms_is_tangential():
    vectors = jax.random.normal(jax.random.key(1), (2, 5))

    def total(vectors, norm_gradient):
        return jnp.sum(pairwise_cosines(vectors, norm_gradient=norm_gradient).cosine)

    through = jax.grad(total)(vectors, True)
    np.testing.assert_allclose(jnp.sum(through * vectors, -1), 0.0, atol=1e-6)
    constant = jax.grad(total)(vectors, False)
    norms = jnp.linalg.norm(vectors, axis=-1)
    np.testing.assert_allclose(constant[0], vectors[1] / jnp.prod(norms), rtol=1e-5)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("strategy", ["map", "unroll", "vmap"])
def test_members_one_by_one_are_the_ensemble(strategy):
    member = CNNConfig(widths=(3,), strides=(2,))
    make = functools.partial(Classifier, normalization=NORMALIZATION)
    together = make(EnsembleConfig(member, 2).make(5, default_layers()))
    alone = make(member.make(5, default_layers()))
    mode = {"train": True, "deterministic": True, "mutable": ["batch_stats"]}
    variables = jax.jit(functools.partial(together.init, train=False, deterministic=True))(
        jax.random.key(1), IMAGES
    )

    @jax.jit
    def run(variables):
        return together.apply(variables, IMAGES, **mode), map_members(
            lambda variables, weight: (
                weight * alone.apply(variables, IMAGES, **mode)[0].logits,
                alone.apply(variables, IMAGES, **mode)[1],
            ),
            variables,
            jnp.asarray([1.0, 2.0]),
            strategy=strategy,
        )

    (outputs, moved), (logits, found) = run(variables)
    expected = outputs.member_logits * jnp.asarray([1.0, 2.0])[:, None, None]
    chex.assert_trees_all_close(logits, expected, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(of_ensemble(found), dict(moved), rtol=1e-5, atol=1e-6)


def test_projections_are_no_first_convolutions():
    network = Classifier(ResNetConfig(depth=20, widths=(2, 4, 8)).make(3, default_layers()))
    images = jnp.zeros((1, 8, 8, 1))
    variables = jax.eval_shape(
        functools.partial(network.init, train=False, deterministic=True),
        jax.random.key(0),
        images,
    )
    paths = []

    def record(variables):
        found = first_convolutions(Member(network, variables, images), train=False, num_layers=19)
        paths.extend("/".join(each.path[1:]) for each in found)
        with pytest.raises(ValueError, match="num_layers=20 <= 19"):
            first_convolutions(Member(network, variables, images), train=False, num_layers=20)

    jax.eval_shape(record, variables)
    assert paths[:4] == ["stem_conv", "layer1_0/conv1", "layer1_0/conv2", "layer1_1/conv1"]
    assert paths[7:9] == ["layer2_0/conv1", "layer2_0/conv2"]
    assert not any("shortcut" in path for path in paths)
