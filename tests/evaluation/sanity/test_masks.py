"""The table of masks: each model whose printed accuracy is too high, and the check that flags it.

No protocol here has a row of queries: what flags a model, the probe brings itself.
"""

import jax
import jax.numpy as jnp
import pytest

from robust_jax import evaluation
from robust_jax.attacks import ARC, BIM, MORA, PGD, ThreatModel
from robust_jax.data import DataConfig, Digits, open_data
from robust_jax.evaluation import sanity
from robust_jax.evaluation.protocol import AttackRun, Evaluation, Judge, Selection
from robust_jax.evaluation.record import Decision, Record
from robust_jax.evaluation.sanity import probes
from robust_jax.evaluation.sanity.indicators import indicators
from robust_jax.evaluation.sanity.probed import Probed
from robust_jax.methods import Method
from robust_jax.runtime import sharding
from tests.evaluation.sanity.digits import method, network, trained

PGDS = {f"pgd_{eps}": PGD(ThreatModel("linf", eps), num_steps=20) for eps in (0.1, 0.2)}


@pytest.fixture(scope="module")
def data():
    return open_data(DataConfig(Digits()))


@pytest.fixture(scope="module")
def plain(data):
    """A network that no attack has trained."""
    return trained(data, eps=0.0)


def flags(
    found: Method, params, data, view: str = "deployed", attacks=PGDS, number: int = 64
) -> set[str]:
    """The names of the flags that a probe on some images raises, its sound next steps checked."""
    config = Evaluation({name: AttackRun(attack, view=view) for name, attack in attacks.items()})
    images = jnp.asarray(data.test.arrays[0][:number] / 255, jnp.float32)
    labels = jnp.asarray(data.test.arrays[1][:number], jnp.int32)
    findings = sanity.probe(Probed(found, params, images, labels, config.attacks))
    assert all(finding.next_step for finding in findings if finding.status == "flag")
    return {finding.check for finding in findings if finding.status == "flag"}


def quantised(params, images):
    return network(params, jnp.round(images * 3) / 3)


def soft_quantised(params, images):
    levels = jnp.floor(images * 3)
    return network(params, (levels + jax.nn.sigmoid(60 * (images * 3 - levels - 0.5))) / 3)


def wrong_leak(params, images):
    return quantised(params, images) + 1e-3 * jnp.sin(40 * images.reshape(len(images), -1)[:, :10])


def saturated(params, images):
    return 1e4 * network(params, images)


def vanishing(params, images):
    return 1e-6 * network(params, images)


def argmax_and_small_logits(params, images):
    logits = network(params, images)
    return 20 * jax.nn.one_hot(jnp.argmax(logits, -1), 10) + 1e-3 * logits


def one_hot(params, images):
    return jax.nn.one_hot(jnp.argmax(network(params, images), -1), 10)


def detached(params, images):
    return jax.lax.stop_gradient(network(params, images))


@jax.custom_vjp
def flip(images):
    return images


flip.defvjp(lambda images: (images, None), lambda _, cotangent: (-cotangent,))


def flipped(params, images):
    return network(params, flip(images))


def shattered(params, images):
    directions = jax.random.normal(jax.random.key(5), (64, 10))
    waves = jnp.sin(300 * images.reshape(len(images), -1) @ directions)
    return network(params, images) + 0.3 * waves


def probabilities(params, images):
    return jax.nn.softmax(network(params, images))


def clipped(params, images):
    return jnp.log(jnp.clip(jax.nn.softmax(network(params, images)), 0.2, 0.5))


def no_number(params, images):
    return network(params, images) * jnp.nan


def no_number_off_the_grid(params, images):
    off = jnp.any(jnp.abs(images * 255 - jnp.round(images * 255)) > 1e-2, axis=(1, 2, 3))
    return jnp.where(off[:, None], jnp.nan, network(params, images))


GRADIENTS, SCALE = "has gradients", ": the scale of the logits does not matter"
CHANCE, QUERIES = ": eps = 1 reaches chance", ": gradients beat queries"
NOISE, LOSSES = ": gradients beat random noise", ": no other loss finds more"
LINEAR = ": gradients predict the loss nearby"
TABLE = {
    quantised: {GRADIENTS, CHANCE, QUERIES, NOISE},
    soft_quantised: {LINEAR},
    wrong_leak: {CHANCE, QUERIES, NOISE},
    saturated: {GRADIENTS, SCALE, QUERIES, NOISE, LOSSES},
    vanishing: {LOSSES},
    argmax_and_small_logits: {LOSSES},
    one_hot: {"gives logits", GRADIENTS, CHANCE, QUERIES, NOISE},
    detached: {GRADIENTS, CHANCE, QUERIES, NOISE},
    flipped: {LINEAR, CHANCE, QUERIES, NOISE},
    shattered: {LINEAR, QUERIES, NOISE},
    probabilities: {"gives logits"},
    clipped: {GRADIENTS},
    no_number: {GRADIENTS},
}
"""By model: what flags the view that is attacked, each after its name."""


def words(name: str, check: str) -> str:
    return f"view {name!r}{check}" if check.startswith(":") else f"view {name!r} {check}"


# A quick one: the masked view beside a sound rule, below.
@pytest.mark.slow
@pytest.mark.parametrize("model", TABLE, ids=lambda model: model.__name__)
def test_a_masked_model_is_flagged(model, plain, data):
    found = flags(method(lambda v, x, *, key=None: model(v, x)), plain, data)
    expected = {words("deployed", check) for check in TABLE[model]}
    assert expected <= found, found


@pytest.mark.slow
def test_a_model_without_numbers_off_the_grid_is_flagged(plain, data):
    """By the records, of attacks that all succeed."""
    made = method(lambda v, x, *, key=None: no_number_off_the_grid(v, x))
    config = Evaluation(
        {"pgd": AttackRun(PGDS["pgd_0.1"])}, selection=Selection(num_examples=16), batch_size=16
    )
    evaluator = evaluation.make_evaluator(made, config, sharding.make_mesh(1))
    findings = sanity.check_records(
        evaluation.evaluate(evaluator, plain, data.test), config.attacks, config.deciding
    )
    assert "scores are numbers" in {f.check for f in findings if f.status == "flag"}


@pytest.mark.parametrize(("scale", "advice"), [(1e2, "Rescaled"), (1e4, "Rescaled"), (0.0, "BPDA")])
def test_a_saturated_softmax_is_told_from_a_network_without_gradients(scale, advice, plain, data):
    """At 10,000 the softmax of float64 underflows too."""

    def view(params, images, *, key=None):
        logits = network(params, images)
        return (scale or 1.0) * (logits if scale else jax.lax.stop_gradient(logits))

    images = jnp.asarray(data.test.arrays[0][:32] / 255, jnp.float32)
    labels = jnp.argmax(network(plain, images), -1)
    asked = sanity.probes.Probes(Probed(method(view), plain, images, labels, {}), jax.random.key(3))
    found = asked.gradients("x", view)
    assert (found.status, advice in found.next_step) == ("flag", True), found


@pytest.mark.slow
def test_a_masked_view_beside_a_sound_rule_is_flagged(plain, data):
    def view(params, images, *, key=None):
        return flipped(params, images)

    def sound(params, images, *, key=None):
        return network(params, images)

    found = flags(method(sound, surrogate=view), plain, data, "surrogate")
    assert found == {words("surrogate", check) for check in TABLE[flipped]}


@pytest.mark.parametrize(
    ("eps", "number"),
    [
        pytest.param(0.0, 64, marks=pytest.mark.slow),
        pytest.param(0.1, 64, marks=pytest.mark.slow),
        pytest.param(0.1, 128, marks=pytest.mark.slow),
    ],
)
def test_a_sound_network_raises_none(eps, number, plain, data):
    """Also where five starts find what one does not, on more images than chance explains."""
    params = trained(data, eps=eps) if eps else plain
    found = method(lambda v, x, *, key=None: network(v, x))
    assert flags(found, params, data, number=number) == set()


@pytest.mark.slow
def test_steps_so_short_that_they_do_not_end(plain, data):
    short = {"short": BIM(ThreatModel("linf", 0.2), num_steps=20, step_size=1e-3)}
    found = flags(method(lambda v, x, *, key=None: network(v, x)), plain, data, attacks=short)
    assert found == {"optimisation has ended (incomplete optimisation)"}


def test_an_attack_that_passes_what_it_seeks():
    """Brightness rises step by step, past the narrow window where the other class is found."""

    def view(variables, images, *, key=None):
        bright = jnp.mean(images, axis=(1, 2, 3))
        truth = jnp.where(jnp.abs(bright - 0.575) < 0.01, 5, -5)
        return jnp.stack([0 * bright, bright + jax.lax.stop_gradient(truth - bright)], axis=1)

    images, labels = jnp.full((8, 2, 2, 1), 0.5), jnp.zeros(8, jnp.int32)
    steps = {"num_steps": 8, "step_size": 0.025}
    attacks = {
        "flag": BIM(ThreatModel("linf", 0.2), **steps),
        "passed": PGD(ThreatModel("linf", 0.2), random_start=False, **steps),
    }
    for expected, attack in attacks.items():
        config = Evaluation({"steps": AttackRun(attack)})
        probed = Probed(method(view), {}, images, labels, config.attacks)
        found = indicators(probed, key=jax.random.key(0))
        assert found[0].check == "attacks return what they find (silent success)"
        assert found[0].status == expected


def test_an_attack_that_wants_every_member_wrong():
    """They are, each for another class, and by their mean the label is the likeliest still."""

    def view(variables, images, *, key=None):
        bright = jnp.mean(images, axis=(1, 2, 3))
        zero = 0 * bright
        for_one = jnp.stack([zero, bright - 0.55, zero - 9], axis=1)
        return jnp.stack([for_one, for_one[:, jnp.asarray([0, 2, 1])]])

    images, labels = jnp.full((8, 2, 2, 1), 0.5), jnp.zeros(8, jnp.int32)
    runs = {"arc": AttackRun(ARC(ThreatModel("linf", 0.2), num_steps=3))}
    found = indicators(Probed(method(view), {}, images, labels, runs), key=jax.random.key(0))
    assert (found[0].status, "on 0.0 %" in found[0].text) == ("passed", True)


def test_an_attack_that_knows_the_vote():
    """Two members of three are wrong, unsurely; by the mean the sure third decides."""

    def view(variables, images, *, key=None):
        bright = jnp.mean(images, axis=(1, 2, 3))
        unsure = jnp.stack([0 * bright, bright - 0.55], axis=1)
        sure = jnp.stack([10 + 0 * bright, 0 * bright], axis=1)
        return jnp.stack([unsure, unsure, sure])

    images, labels = jnp.full((8, 2, 2, 1), 0.5), jnp.zeros(8, jnp.int32)
    ball, runs = ThreatModel("linf", 0.2), {}
    attack = MORA(ball, num_steps=10, rule="voting", mixtures=(0.5,), num_targets=0)
    runs["mora"] = AttackRun(attack)
    found = indicators(Probed(method(view), {}, images, labels, runs), key=jax.random.key(0))
    assert (found[0].status, "mora" in found[0].text) == ("passed", True)


@pytest.mark.parametrize("skip", [True, False])
def test_what_no_attack_was_made_on_does_not_stand(data, monkeypatch, skip):
    """Row 1 is right nowhere and was skipped, row 2 was attacked and stands, row 0 is fooled."""
    asked = {}
    monkeypatch.setattr(probes, "probe", lambda *_, fooled, **__: asked.update(fooled) or [])
    right, wrong = (Decision(0, found, [0], float(found)) for found in (True, False))
    clean = {
        row: Record(row, 0, 0.0, 0.0, False, {"honest": right if row != 1 else wrong})
        for row in range(3)
    }
    records = {"clean": clean, "pgd": clean | {0: clean[0]._replace(view_fooled=True)}}
    nothing = Method(*[lambda *_, **__: None] * 3, {})
    attacks = {"pgd": AttackRun(PGDS["pgd_0.1"])}
    sanity.probe_split(
        nothing, {}, data.test, records, attacks, judge=Judge(), seed=0, skip_misclassified=skip
    )
    assert asked == {"pgd": [True, skip, False]}
