"""Measures of what is inside a network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import FGSM, Boundary, ThreatModel
from robust_jax.evaluation.measures import (
    Activations,
    Embedding,
    FilterSheet,
    KeepRate,
    Latency,
    VotingLayers,
)
from robust_jax.evaluation.measures.network import activations
from robust_jax.methods import KAP, PriorityDropout, PriorityRates, REGroup, Standard
from robust_jax.models import CNNConfig, EnsembleConfig
from robust_jax.runtime.dry_run import dry_run
from tests import small

THREAT = ThreatModel("linf", 0.1)
PLAIN = Standard(network=small.NETWORK)


def test_filters_lie_where_kernels_are_pooled(subject):
    asked = subject(KAP(network=small.NETWORK))
    found = FilterSheet()(asked)
    assert found.numbers == {"filters": 16}
    assert len(found.figures) == 1
    assert FilterSheet().missing(subject(PLAIN)) == "kernel average pooling"
    assert len(FilterSheet(pooled_only=False)(subject(PLAIN)).figures) == 1


@pytest.mark.slow
def test_embedding_by_sign(subject):
    asked = subject(PLAIN)
    (figure, words) = Embedding(by_sign=True)(asked).figures[0]
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["all", "positive", "negative"]
    assert "activations of " in words
    with pytest.raises(ValueError, match="Expected layer='nowhere' to be one of"):
        Embedding(layer="nowhere")(asked)
    assert "40 images (it is given 39)" in str(Embedding().missing(subject(PLAIN, num_images=39)))


@pytest.mark.slow
def test_activations_move_as_the_taps_say(subject):
    asked = subject(PLAIN, num_images=16)
    attack = FGSM(THREAT)
    numbers = Activations(attack=attack)(asked).numbers
    found = numbers["relative_change"]
    assert numbers["moved"] == 16
    view, taps = asked.view("deployed"), asked.taps
    taps = jax.jit(lambda images, view=taps: view(images, key=None))
    adversarial = attack(view, asked.images, asked.labels, key=jax.random.key(0))
    clean, moved = taps(asked.images), taps(adversarial)
    assert found["adversarial"].keys() == clean.keys()
    for layer, tap in clean.items():
        before, after = (np.asarray(one).reshape(16, -1) for one in (tap, moved[layer]))
        share = np.linalg.norm(after - before, axis=1) / np.linalg.norm(before, axis=1)
        assert found["adversarial"][layer] == pytest.approx(np.median(share), rel=1e-3)
        assert found["noise"][layer] > 0
    # Of 16 images in batches of 6 some stay as they were: the others keep their own taps.
    adversarial = adversarial.at[::3].set(asked.images[::3])
    some = jnp.asarray([i for i in range(16) if i % 3])
    parts = asked._replace(images=asked.images, batch_size=6)
    kept = activations(parts, adversarial[some], tuple(clean), key=asked.key)
    for layer, tap in taps(adversarial[some]).items():
        np.testing.assert_allclose(kept[layer][0], tap, rtol=1e-4, atol=1e-5)
    still = Activations(attack=FGSM(ThreatModel("linf", 0.0)))
    assert still(asked).numbers == {"moved": 0}


def test_keep_rate_at_zero_and_far_away(subject):
    config = PriorityDropout(network=EnsembleConfig(small.NETWORK, 2))
    rates = config.rates
    found = KeepRate()(subject(config)).numbers["keep_rate"]
    at_zero = min(1.0, rates.alpha / (2 * rates.laplace_lambda) + rates.beta)
    assert found["0.0"] == pytest.approx(at_zero, rel=1e-5)
    assert rates.beta < found["3.0"] < found["1.0"] < found["0.0"]
    pdd = PriorityDropout(network=EnsembleConfig(small.NETWORK, 2), rates=PriorityRates())
    assert KeepRate().missing(subject(pdd)) == "Laplace priority dropout"


@pytest.fixture(scope="module")
def fitted(data):
    """A small REGroup of all its layers that knows some digits."""
    config = REGroup(network=CNNConfig(widths=(8, 16), strides=(1, 2)), num_layers=None,
                     layer_accuracy=0.0)  # fmt: skip
    method = config.make(data.task)
    variables, batch = small.trained(method, data)
    return config, method.fit(variables, [batch], key=jax.random.key(0))


@pytest.mark.slow
def test_voting_layers_agree_with_the_deployed_rule(subject, fitted):
    config, variables = fitted
    asked = subject(config, num_images=60, variables=variables)._replace(batch_size=20)
    attacks = {"fgsm": FGSM(ThreatModel("linf", 0.05))}
    found = VotingLayers(attacks=attacks)(asked).numbers
    assert {name: one["count"] for name, one in found.items()} == dict.fromkeys(found, 60)
    scores = np.asarray(jax.jit(asked.method.predict)(asked.variables, asked.images))
    deployed = np.mean(np.argmax(scores, axis=-1) == np.asarray(asked.labels))
    # All layers and both signs vote in the deployed rule, too.
    assert found["clean"]["by_sign"]["both"] == pytest.approx(deployed)
    assert found["clean"]["by_depth"][-1] == pytest.approx(deployed)
    num_layers = len(found["clean"]["by_layer"])
    assert num_layers > 1
    # The last layer alone is the first to vote.
    assert found["clean"]["by_depth"][0] == found["clean"]["by_layer"][-1]
    assert found["fgsm"]["by_sign"]["both"] < deployed
    # Of the softmax network's mistakes alone, as the paper counts.
    moved = asked.attacked(attacks["fgsm"], "surrogate")

    def is_right(view, images):
        return jnp.argmax(asked.ask(view, images, key=asked.key), axis=-1) == asked.labels

    wrong, right = ~is_right("surrogate", moved), is_right("decision", moved)
    assert 0 < int(wrong.sum()) < 60
    some = VotingLayers(attacks=attacks, of="successes")(asked)
    assert some.numbers["clean"] == found["clean"]
    assert some.numbers["fgsm"]["count"] == int(wrong.sum())
    assert some.numbers["fgsm"]["by_sign"]["both"] == pytest.approx(float(right[wrong].mean()))
    # A batch of the size that is compiled.
    known = jnp.flatnonzero(is_right("surrogate", asked.images))[:20]
    known = asked._replace(images=asked.images[known], labels=asked.labels[known])
    none = VotingLayers(attacks={"still": FGSM(ThreatModel("linf", 0.0))}, of="successes")(known)
    assert none.numbers["still"] == {"count": 0}
    assert none.lines[1][1].endswith("of 0 images")
    only = subject(
        REGroup(network=config.network, responses="positive"), num_images=1, variables=variables
    )
    assert "positive and negative" in str(VotingLayers().missing(only))
    members = dataclasses.replace(config, network=EnsembleConfig(config.network, 2))
    assert "a single network" in str(VotingLayers().missing(asked._replace(config=members)))


@dataclasses.dataclass(frozen=True)
class Told(Boundary):
    """Draws what it is given: the first image that it may begin at, its label in a corner."""

    def perturb(self, given):
        found = jnp.zeros_like(given.images) + given.starts[:1]
        return found.at[:, 0, 0, 0].set(given.labels / 16)


@pytest.mark.slow
def test_attacks_of_a_measure_have_targets_and_images_to_begin_at(subject):
    asked = subject(PLAIN, num_images=30)._replace(batch_size=16)
    for targeted in (False, True):
        told = asked.attacked(Told(targeted=targeted), "deployed")
        assert bool((told[:, 1:] == asked.images[:1, 1:]).all())
        classes = jnp.round(told[:, 0, 0, 0] * 16).astype(int)
        assert bool((classes != asked.labels if targeted else classes == asked.labels).all())
        assert set(classes.tolist()) <= set(range(10))
        assert len(set(((classes - asked.labels) % 10).tolist())) == (9 if targeted else 1)
    traced = []

    def dry(images):
        told = asked._replace(images=images).attacked_parts(Boundary(num_steps=2), "deployed")
        traced.extend(part.shape for part in told)

    dry_run(dry, asked.images, what="boundary")
    assert traced == [(15, *asked.images.shape[1:])] * 2
    layers = VotingLayers(
        attacks={"boundary": Boundary(num_steps=2), "told": Told()}, view="deployed"
    )

    def ask(images):
        layers(asked._replace(images=images))

    # Every attack is traced, not only as far as the first number.
    with pytest.raises(ValueError, match=r"Expected layers to run on this model: .*NoneType"):
        dry_run(ask, asked.images, what="layers", on_host=True)


@pytest.mark.slow
def test_latency_times_the_deployed_rule_beside_its_network(subject, fitted):
    config, variables = fitted
    asked = subject(config, num_images=3, variables=variables)
    latency = Latency(views=("surrogate", "decision"), batch_size=2, num_repeats=7)
    found = latency(asked).numbers
    assert found["batch_size"] == 2
    assert found["device"]
    for quartiles in found["seconds"].values():
        assert 0 < quartiles["lower"] <= quartiles["median"] <= quartiles["upper"] < 10
    assert list(found["seconds"]) == ["surrogate", "decision"]
    few = asked._replace(images=asked.images[:1])
    assert latency.missing(few) == "2 images (it is given 1)"
    with pytest.raises(ValueError, match="Expected view='x' to be one of"):
        Latency(views=("x",)).missing(asked)
    with pytest.raises(ValueError, match="Expected num_repeats=0 >= 1"):
        Latency(num_repeats=0)
