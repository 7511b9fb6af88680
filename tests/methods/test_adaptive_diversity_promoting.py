"""ADP's terms and loss against NumPy; saturated members keep finite gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from robust_jax.methods import AdaptiveDiversityPromoting
from robust_jax.methods.adaptive_diversity_promoting import ensemble_entropy, log_determinant
from robust_jax.models import CNNConfig, EnsembleConfig
from robust_jax.types import Batch, Task

LOGITS = 2 * jax.random.normal(jax.random.key(0), (3, 5, 7))
LABELS = jnp.asarray([0, 3, 6, 2, 3])


def terms_by_loops(logits, labels):
    """Returns cross-entropies [m], entropy and log determinant, means over examples."""
    logits = np.asarray(logits, np.float64)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    crossed = np.asarray([np.mean([-np.log(m[i, y]) for i, y in enumerate(labels)]) for m in p])
    mean = p.mean(0)
    determinants = []
    for i, label in enumerate(labels):
        columns = [np.delete(member[i], label) for member in p]
        matrix = np.stack([column / np.linalg.norm(column) for column in columns], axis=1)
        gram = matrix.T @ matrix + 1e-6 * np.eye(len(columns))
        determinants.append(np.log(np.linalg.det(gram)))
    return crossed, np.mean(-(mean * np.log(mean)).sum(-1)), np.mean(determinants)


def test_terms():
    _, entropy, determinant = terms_by_loops(LOGITS, np.asarray(LABELS))
    np.testing.assert_allclose(jnp.mean(ensemble_entropy(LOGITS)), entropy, rtol=1e-5)
    np.testing.assert_allclose(jnp.mean(log_determinant(LOGITS, LABELS)), determinant, rtol=1e-4)


def test_loss():
    config = AdaptiveDiversityPromoting(
        network=EnsembleConfig(CNNConfig(widths=(4,), strides=(2,)), 3), alpha=1.5, beta=0.25
    )
    task = Task((6, 6, 1), 7, 100)
    images = jax.random.uniform(jax.random.key(1), (5, 6, 6, 1))
    batch = Batch(images, LABELS, jnp.ones(5, bool), jnp.arange(5))
    variables = jax.jit(lambda key: config.make(task).init(key=key))(jax.random.key(2))
    network = config.classifier(task)
    outputs, _ = jax.jit(
        lambda v: network.apply(v, images, train=True, deterministic=True, mutable=["batch_stats"])
    )(variables)
    crossed, entropy, determinant = terms_by_loops(outputs.member_logits, np.asarray(LABELS))
    for kind, reduce in (("sum", np.sum), ("mean", np.mean)):
        method = dataclasses.replace(config, cross_entropy=kind).make(task)
        value, (_, found) = jax.jit(lambda v, m=method: m.loss(v, batch, key=None, step=0))(
            variables
        )
        expected = reduce(crossed) - 1.5 * entropy - 0.25 * determinant
        np.testing.assert_allclose(value, expected, rtol=1e-4)
        np.testing.assert_allclose(found["cross_entropy"], reduce(crossed), rtol=1e-4)


def test_saturated_members_are_finite():
    """Where the other classes' probabilities underflow, their directions are still known."""
    logits = 200 * LOGITS

    def total(logits):
        return jnp.sum(log_determinant(logits, LABELS)) + jnp.sum(ensemble_entropy(logits))

    value, slope = jax.jit(jax.value_and_grad(total))(logits)
    assert bool(jnp.isfinite(value))
    assert bool(jnp.all(jnp.isfinite(slope)))
