"""Margins as a certificate: closed forms, intervals below CROWN, other checkpoints beside it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import certification, evaluation, sharding
from robust_jax.certify import Margins
from robust_jax.data import DataConfig, Digits, open_data
from robust_jax.methods import KAP, Standard
from robust_jax.models import CNNConfig, EnsembleConfig
from robust_jax.protocol import Evaluation

EPS = 0.02
WEIGHTS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


@pytest.mark.parametrize("bound", ["crown", "interval"])
def test_a_linear_function_against_the_closed_form(bound):
    images = np.random.default_rng(1).uniform(0.1, 0.9, (20, 6)).astype(np.float32)
    labels = np.argmax(images @ WEIGHTS, axis=1)
    found = Margins(EPS, bound=bound)(lambda x: x @ WEIGHTS, images, labels)
    for image, label, margin in zip(images, labels, found.margin, strict=True):
        others = [c for c in range(3) if c != label]
        difference = WEIGHTS[:, [label]] - WEIGHTS[:, others]
        # CROWN knows that both logits see the same image, intervals do not.
        reach = np.abs(difference).sum(0)
        if bound == "interval":
            reach = np.abs(WEIGHTS[:, [label]]).sum(0) + np.abs(WEIGHTS[:, others]).sum(0)
        np.testing.assert_allclose(margin, np.min(image @ difference - EPS * reach), atol=1e-5)
    holds = found.margin > 0
    assert 0 < holds.sum() < 20
    assert found.label.tolist() == np.where(holds, labels, -1).tolist()
    assert found.radius.tolist() == np.where(holds, EPS, 0).tolist()


def leaning(method, key):
    """Returns fresh variables of a network that takes every image for a 3."""

    def lean(path, leaf):
        is_bias = [entry.key for entry in path[-2:]] == ["linear", "bias"]
        return leaf.at[..., 3].add(2.0) if is_bias else leaf

    start = jax.jit(lambda key: method.init(key=key))(key)
    return jax.tree_util.tree_map_with_path(lean, start)


def test_evaluated_beside_other_checkpoints(tmp_path):
    """An ensemble and a network on images that both get right; bounds hold on random neighbours."""
    data, mesh = open_data(DataConfig(Digits())), sharding.make_mesh(1)
    network = CNNConfig(widths=(4,), strides=(2,))
    method = Standard(network=EnsembleConfig(network, 2)).make(data.task)
    other = Standard(network=network).make(data.task)
    variables, others = (leaning(m, jax.random.key(n)) for n, m in enumerate((method, other)))
    wanted = Evaluation(
        certificates={"crown": Margins(EPS), "interval": Margins(EPS, bound="interval")},
        others=("plain",),
        num_examples=3,
        selection="correct",
    )
    evaluator = evaluation.make_evaluator(method, wanted, mesh, {"plain": other})
    records = evaluation.evaluate(evaluator, variables, data.test, sources={"plain": others})
    rows = np.asarray(list(records["clean"]))
    found = {}
    for name, model in ((None, (method, variables)), ("plain", (other, others))):
        found |= certification.certify(
            wanted, *model, data.test, rows, mesh, directory=tmp_path, other=name
        )
    assert list(found) == certification.names(wanted)
    assert list(found) == ["crown", "interval", "crown@plain", "interval@plain"]
    logits = certification.mean_logits(method)
    for number, row in enumerate(rows):
        image = data.test.arrays[0][row] / 255
        draws = np.random.default_rng(number).uniform(-EPS, EPS, (200, *image.shape))
        near = jnp.asarray(np.clip(image + draws, 0, 1), jnp.float32)
        values = np.asarray(logits(variables, near))
        label = found["crown"][1][number]
        rest = np.delete(values, label, axis=1)
        smallest = np.min(values[:, [label]] - rest)
        crown, interval = (found[name][0].margin[number] for name in ("crown", "interval"))
        # Rounding of float32.
        assert interval <= crown <= smallest + 1e-5
    noisy = KAP(network=network, sigma=0.1).make(data.task)
    with pytest.raises(ValueError, match="without randomness"):
        evaluation.make_evaluator(noisy, wanted, mesh, {"plain": other})


@pytest.mark.parametrize("fields", [{"eps": 0.0}, {"eps": math.inf}, {"chunk_size": 0}])
def test_fields_are_checked(fields):
    with pytest.raises(ValueError, match="Expected "):
        Margins(**{"eps": 0.1, **fields})
