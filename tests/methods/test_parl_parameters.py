"""The later objective of PARL's authors against NumPy and plain gradients of taps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.methods import ParameterPARL
from robust_jax.methods.parl_parameters import pairwise_correlations
from robust_jax.models import (
    Classifier,
    CNNConfig,
    EnsembleConfig,
    default_layers,
    member_variables,
)
from robust_jax.types import Batch, Task

MEMBER = CNNConfig(widths=(3, 4, 4), strides=(1, 2, 1))
TASK = Task((6, 6, 2), 5, 100)
CONFIG = ParameterPARL(network=EnsembleConfig(MEMBER, 3), gamma=0.4, num_layers=2)
IMAGES = jax.random.uniform(jax.random.key(0), (4, 6, 6, 2))
BATCH = Batch(IMAGES, jnp.asarray([0, 3, 1, 4]), jnp.ones(4, bool), jnp.arange(4))
TRAIN = {"train": True, "deterministic": True, "mutable": ["batch_stats"]}


def test_correlations_are_pearson_s_but_for_one_example():
    outputs = np.asarray(jax.random.normal(jax.random.key(1), (3, 6, 2, 5)), np.float64)
    found = pairwise_correlations(jnp.asarray(outputs, jnp.float32))
    flat = outputs.reshape(3, 6, 10)
    for pair, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        exact = [np.corrcoef(flat[i, :, u], flat[j, :, u])[0, 1] for u in range(10)]
        # Covariance over n, deviations over n - 1, as in the authors' code.
        assert float(found[pair]) == pytest.approx(np.mean(exact) * 5 / 6, rel=1e-4)


@pytest.mark.slow
def test_units_without_variance_are_left_out_with_finite_gradients():
    outputs = jnp.ones((2, 4, 3)).at[:, :, 0].set(jnp.asarray([1.0, 2.0, 4.0, 3.0]))
    value, slope = jax.jit(jax.value_and_grad(lambda x: jnp.sum(pairwise_correlations(x))))(outputs)
    assert float(value) == pytest.approx(0.75 / 3, rel=1e-5)
    assert bool(jnp.all(jnp.isfinite(slope)))


@pytest.mark.slow
def test_loss_by_hand():
    method = CONFIG.make(TASK)
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(2))
    value, (_, found) = jax.jit(lambda v: method.loss(v, BATCH, key=None, step=0))(variables)

    network = Classifier(MEMBER.make(5, default_layers()))
    crossed, slopes, taps = [], [], []
    for i in range(3):
        alone = member_variables(variables, i)

        def summed(params, name, alone=alone):
            outputs, _ = network.apply({**alone, "params": params}, IMAGES, **TRAIN)
            return jnp.sum(outputs.taps[name])

        outputs, _ = jax.jit(lambda v: network.apply(v, IMAGES, **TRAIN))(alone)
        chosen = np.asarray(jax.nn.log_softmax(outputs.logits))[np.arange(4), BATCH.label]
        crossed.append(-np.mean(chosen))
        taps.append([np.asarray(outputs.taps[name]) for name in ("00.conv1", "01.conv2")])
        first, second = (
            jax.jit(jax.grad(summed), static_argnums=1)(alone["params"], name)["backbone"]
            for name in ("00.conv1", "01.conv2")
        )
        slopes.append(
            [
                np.ravel(first["conv1"]["kernel"]),
                np.concatenate([np.ravel(second[f"conv{n}"]["kernel"]) for n in (1, 2)]),
            ]
        )
    cosines, correlations = [], []
    for k in range(2):
        for i, j in ((0, 1), (0, 2), (1, 2)):
            u, v = slopes[i][k], slopes[j][k]
            cosines.append(np.dot(u, v) / np.linalg.norm(u) / np.linalg.norm(v))
            x, y = (taps[n][k].reshape(4, -1) for n in (i, j))
            covariance = ((x - x.mean(0)) * (y - y.mean(0))).mean(0)
            deviations = x.std(0, ddof=1) * y.std(0, ddof=1)
            correlations.append(np.mean(covariance / deviations))
    assert float(found["gradient_cosine"]) == pytest.approx(np.mean(cosines), rel=1e-3)
    assert float(found["output_correlation"]) == pytest.approx(np.mean(correlations), rel=1e-3)
    expected = np.mean(crossed) + 0.4 * np.sum(cosines) * np.sum(correlations) / 2
    assert float(value) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"network": EnsembleConfig(MEMBER, 1)}, "num_members=1 >= 2"),
        ({"gamma": -0.1}, "gamma=-0.1 >= 0"),
        ({"num_layers": 0}, "num_layers=0 >= 1"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        ParameterPARL(**fields)
