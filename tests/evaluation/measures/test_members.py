"""Measures of ensembles, against their definitions on the same members."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import ThreatModel
from robust_jax.evaluation import Model
from robust_jax.evaluation.measures import (
    Agreement,
    Gradients,
    LayerSimilarity,
    MemberTransfer,
    PrintedNumbers,
    Subject,
)
from robust_jax.methods import BatchEnsemble, RandomLayerSampling, RandomSelfEnsemble, Standard
from robust_jax.models import CNNConfig, EnsembleConfig
from tests import small

ENSEMBLE = Standard(network=EnsembleConfig(small.NETWORK, 3))
DRAWS = RandomLayerSampling(network=CNNConfig(widths=(8, 16), strides=(2, 1)), num_draws=3)


def logits(subject, images=None):
    images = subject.images if images is None else images
    return subject.method.view("members")(subject.variables, images, key=jax.random.key(9))


@pytest.mark.slow
def test_agreement_of_networks(subject):
    asked = subject(ENSEMBLE)
    right = np.asarray(jnp.argmax(logits(asked), axis=-1) == asked.labels[None])
    found = Agreement()(asked)
    np.testing.assert_allclose(found.numbers["accuracy"], right.mean(axis=1), atol=1e-6)
    # Fleiss et al., 1981: kappa = 1 - mean l (K - l) / (K (K - 1) p (1 - p)).
    count, share = right.sum(axis=0), right.mean()
    kappa = 1 - np.mean(count * (3 - count)) / (3 * 2 * share * (1 - share))
    assert found.numbers["interrater_agreement"]["mean"] == pytest.approx(kappa, abs=1e-5)
    entropy = np.mean(np.minimum(count, 3 - count))  # K - ceil(K / 2) is 1
    assert found.numbers["entropy"]["mean"] == pytest.approx(entropy, abs=1e-6)
    assert found.numbers["entropy"]["deviation"] is None  # of one


def test_a_member_without_numbers_agrees_with_none():
    """The argmax of scores that are none is class 0, which the other is right to say."""
    sure = jnp.asarray([1.0, 0.0])

    def members(images):
        return jnp.stack([jnp.tile(sure, (len(images), 1)), jnp.full((len(images), 2), jnp.nan)])

    model = Model.of(lambda images: members(images)[0], num_classes=2, members=members)
    images, labels = jnp.zeros((4, 2, 2, 1)), jnp.zeros(4, jnp.int32)
    asked = Subject(
        model.method, model.config, model.variables, images, labels, ("a", "b"),
        jax.random.key(0), batch_size=4,
    )  # fmt: skip
    assert Agreement()(asked).numbers["accuracy"] == [1.0, 0.0]


@pytest.mark.slow
def test_agreement_of_draws(subject):
    asked = subject(DRAWS)
    measure = Agreement(view="fresh", num_draws=4, num_repeats=3)
    found = measure(asked).numbers
    assert len(found["accuracy"]) == 4
    assert found["interrater_agreement"]["deviation"] > 0
    assert measure(asked).numbers == found
    assert measure.missing(subject(ENSEMBLE)) == "randomness"
    with pytest.raises(ValueError, match="num_draws=1 >= 2"):
        Agreement(view="fresh", num_draws=1)
    with pytest.raises(ValueError, match="num_draws=3 of view='members'"):
        Agreement(num_draws=3)


def test_printed_numbers_stand_beside_ours(subject):
    rows = {
        "mine": {"interrater_agreement.mean": 0.51},
        "other": {"no.such": 1.0},
        "a list's": {"accuracy.1": 0.5},
        "a short list's": {"accuracy.9": 0.5},
    }
    printed = PrintedNumbers("table 5", rows)
    found = Agreement(printed=printed)(subject(ENSEMBLE)).numbers
    ours = found["interrater_agreement"]["mean"]
    expected = {"interrater_agreement.mean": {"paper": 0.51, "ours": ours}}
    assert printed.beside(found, "mine") == expected
    assert printed.beside(found, "nobody's") == {}
    second = {"paper": 0.5, "ours": found["accuracy"][1]}
    assert printed.beside(found, "a list's") == {"accuracy.1": second}
    with pytest.raises(ValueError, match=r"printed='accuracy\.9'"):
        printed.beside(found, "a short list's")
    with pytest.raises(ValueError, match=r"printed='no\.such'"):
        printed.beside(found, "other")


@pytest.mark.slow
def test_gradients_are_the_losses_own(subject):
    asked = subject(ENSEMBLE)
    found = Gradients(losses=("cross_entropy",), num_pictures=2)(asked)

    def loss(images, member):
        chosen = jax.nn.log_softmax(logits(asked, images)[member])
        return -jnp.sum(jnp.take_along_axis(chosen, asked.labels[:, None], axis=1))

    slopes = [jax.jit(jax.grad(loss), static_argnums=1)(asked.images, m) for m in range(3)]
    slopes = np.asarray(slopes, np.float64).reshape(3, len(asked.images), -1)
    length = np.linalg.norm(slopes, axis=-1)
    cosines = sum(
        np.sum(slopes[i] * slopes[j], axis=-1) / (length[i] * length[j])
        for i, j in itertools.combinations(range(3), 2)
    )
    numbers = found.numbers["cross_entropy"]
    quartiles = (25, 50, 75)
    np.testing.assert_allclose(numbers["L_d"], np.percentile(cosines, quartiles), atol=1e-4)
    np.testing.assert_allclose(
        numbers["L_s"], np.percentile(length.sum(axis=0), quartiles), rtol=1e-4
    )
    assert len(found.figures) == 2


@pytest.mark.slow
def test_transfer_is_judged_by_all(subject, data):
    ensemble = Standard(network=EnsembleConfig(CNNConfig(widths=(16, 32), strides=(2, 1)), 3))
    variables, _ = small.trained(ensemble.make(data.task), data, num_steps=60)
    asked = subject(ensemble, variables=variables)
    threat = ThreatModel("linf", 0.1)
    found = np.asarray(MemberTransfer(threat=threat)(asked).numbers["accuracy"])
    assert found.shape == (3, 4)
    # Each is fooled by its own examples more than by the others'.
    clean = np.asarray(Agreement()(asked).numbers["accuracy"])
    assert np.all(clean > 0.6), (clean, found)
    assert np.all(np.diag(found) < clean - 0.3)
    others = (found[:, :3].sum(axis=0) - np.diag(found)) / 2
    assert np.all(np.diag(found) < others)


@pytest.mark.slow
def test_batches_change_nothing(subject, data):
    variables, _ = small.trained(ENSEMBLE.make(data.task), data)
    transfer = MemberTransfer(threat=ThreatModel("linf", 0.1))
    for measure in (Agreement(), LayerSimilarity(), Gradients(), transfer):
        whole, parts = (
            measure(subject(ENSEMBLE, batch_size=size, variables=variables)).numbers
            for size in (40, 16)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
                     whole, parts)  # fmt: skip


@pytest.mark.quick_one_in(4)
@pytest.mark.parametrize(
    ("config", "networks", "members"),
    [
        (ENSEMBLE, True, True),
        pytest.param(
            BatchEnsemble(network=small.NETWORK, num_members=2), True, True, marks=pytest.mark.slow
        ),
        (DRAWS, False, True),
        (RandomSelfEnsemble(network=EnsembleConfig(small.NETWORK, 2), num_draws=2), False, True),
        (Standard(network=small.NETWORK), False, False),
    ],
    ids=["ensemble", "batch_ensemble", "rls", "rse", "single"],
)
def test_draws_of_one_network_are_members_but_no_networks(subject, config, networks, members):
    asked = subject(config)
    assert (LayerSimilarity().missing(asked) is None) == networks
    assert (MemberTransfer().missing(asked) is None) == networks
    assert (Agreement().missing(asked) is None) == members
    assert (Gradients(networks_only=True).missing(asked) is None) == networks
    if networks:
        cka = LayerSimilarity()(asked).numbers["cka"]
        assert all(0 < value <= 1 + 1e-6 for curve in cka.values() for value in curve.values())


def test_a_member_that_does_not_exist(subject):
    asked = subject(ENSEMBLE)
    np.testing.assert_allclose(
        asked.method.view("member_2")(asked.variables, asked.images), logits(asked)[2], atol=1e-5
    )
    with pytest.raises(ValueError, match="'member_3' below the 3 members"):
        asked.method.view("member_3")(asked.variables, asked.images)
