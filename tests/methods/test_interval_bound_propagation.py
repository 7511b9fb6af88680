"""Interval bound propagation against NumPy: loss, gradient, schedule, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robust_jax import methods, training
from robust_jax.attacks import PGD, ThreatModel, bind
from robust_jax.certify import Margins
from robust_jax.data import Augmentation, DataConfig, Digits, eval_batches, open_data
from robust_jax.methods import IBP, CrossEntropy, WorstCase
from robust_jax.models import CNNConfig, EnsembleConfig
from robust_jax.runtime import sharding
from robust_jax.training import TrainingConfig
from robust_jax.types import Batch, Task

# On 2 x 2 pixels the convolution sees the whole image: two layers, with a ReLU between them.
TWO_LAYERS = CNNConfig(widths=(6,), strides=(2,), conv_bias=True, norm=False)
TASK = Task((2, 2, 1), 3, 100)
IMAGES = jax.random.uniform(jax.random.key(0), (5, 2, 2, 1))
BATCH = Batch(IMAGES, jnp.asarray([0, 2, 1, 0, 2]), jnp.ones(5, bool), jnp.arange(5))
EPS, KAPPA = 0.15, 0.3
AT_ONCE = {"eps": EPS, "kappa": KAPPA, "warmup_steps": 0, "ramp_steps": 0}


def cross_entropy(logits, labels):
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sums = np.log(np.exp(shifted).sum(axis=1))
    return np.mean(log_sums - shifted[np.arange(len(labels)), labels])


def by_hand(params, images, labels):
    """Returns the loss in float64: intervals of the first layer, differences of the second."""
    kernel, bias, weights, last_bias = params
    first = kernel[1:, 1:, 0].reshape(4, -1)  # what is not on the border of zeros

    def hidden(x):
        return np.maximum(x @ first + bias, 0)

    x = images.reshape(len(images), -1)
    low, high = np.clip(x - EPS, 0, 1), np.clip(x + EPS, 0, 1)
    centre, reach = (low + high) / 2 @ first + bias, (high - low) / 2 @ np.abs(first)
    low, high = np.maximum(centre - reach, 0), np.maximum(centre + reach, 0)
    worst = np.zeros((len(x), 3))
    for row, label in enumerate(labels):
        for other in range(3):
            w = weights[:, other] - weights[:, label]
            largest = high[row] @ np.maximum(w, 0) + low[row] @ np.minimum(w, 0)
            worst[row, other] = largest + last_bias[other] - last_bias[label]
    clean = cross_entropy(hidden(x) @ weights + last_bias, labels)
    return KAPPA * clean + (1 - KAPPA) * cross_entropy(worst, labels)


@pytest.mark.slow
def test_loss_and_gradient_are_those_of_the_equations():
    method = IBP(network=TWO_LAYERS, **AT_ONCE).make(TASK)

    def loss(params):
        return method.loss({"params": params}, BATCH, key=jax.random.key(1), step=0)[0]

    params = jax.tree.map(
        lambda leaf: jnp.asarray(np.random.default_rng(leaf.size).normal(size=leaf.shape)),
        jax.eval_shape(lambda: method.init(key=jax.random.key(1)))["params"],
    )
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    found, slopes = jax.jit(jax.value_and_grad(loss))(params)

    def arrays(tree):
        conv, linear = (tree["backbone"][name] for name in ("conv1", "linear"))
        leaves = (conv["kernel"], conv["bias"], linear["kernel"], linear["bias"])
        return [np.asarray(leaf, np.float64) for leaf in leaves]

    wanted = arrays(params)
    given = np.asarray(IMAGES, np.float64), np.asarray(BATCH.label)
    np.testing.assert_allclose(found, by_hand(wanted, *given), rtol=1e-5)
    for array, slope in zip(wanted, arrays(slopes), strict=True):
        for place in np.ndindex(array.shape):
            values = []
            for move in (1e-6, -1e-6):
                array[place] += move
                values.append(by_hand(wanted, *given))
                array[place] -= move
            # Of float32, beside values of size one; of the differences 1e-9.
            assert slope[place] == pytest.approx((values[0] - values[1]) / 2e-6, abs=2e-5)


@pytest.mark.slow
def test_an_ensemble_trains_each_member_for_itself():
    ensemble = EnsembleConfig(TWO_LAYERS, 2)
    alone = IBP(network=TWO_LAYERS, **AT_ONCE).make(TASK)
    made = {
        of: methods.Standard(
            network=ensemble, cross_entropy=of, terms=(WorstCase(of=of, **AT_ONCE),)
        ).make(TASK)
        for of in ("sum", "mean")
    }
    key = jax.random.key(2)
    variables = made["sum"].init(key=key)

    @jax.jit
    def values(variables):
        members = [
            {"params": {"backbone": jax.tree.map(lambda leaf, i=i: leaf[i], stacked)}}
            for stacked in [variables["params"]["backbone"]["member"]]
            for i in range(2)
        ]
        each = [alone.loss(one, BATCH, key=key, step=0)[0] for one in members]
        return each, [made[of].loss(variables, BATCH, key=key, step=0)[0] for of in made]

    each, (total, mean) = values(variables)
    assert float(total) == pytest.approx(float(sum(each)), rel=1e-5)
    assert float(mean) == pytest.approx(float(sum(each)) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("warmup_steps", "ramp_steps", "expected"),
    [
        (10, 20, {0: 0.0, 9: 0.0, 10: 0.0, 11: 0.05, 20: 0.5, 29: 0.95, 30: 1.0, 10**6: 1.0}),
        (0, 4, {0: 0.0, 1: 0.25, 4: 1.0, 5: 1.0}),
        (3, 0, {0: 0.0, 2: 0.0, 3: 1.0}),
        (0, 0, {0: 1.0}),
    ],
)
def test_schedule(warmup_steps, ramp_steps, expected):
    term = WorstCase(0.4, 0.25, warmup_steps, ramp_steps)
    for step, share in expected.items():
        eps, kappa = term.at(step)
        assert float(eps) == pytest.approx(0.4 * share, abs=1e-7)
        assert float(kappa) == pytest.approx(1 - 0.75 * share, abs=1e-7)


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_schedule():
    """One program for every step; what a state says is its step decides."""
    mesh, config = sharding.make_mesh(1), TrainingConfig()
    method = IBP(network=TWO_LAYERS, eps=EPS, kappa=KAPPA, warmup_steps=2, ramp_steps=4).make(TASK)
    optimizer = optax.sgd(0.1)
    step = training.make_train_step(method, optimizer, config, Augmentation(), mesh)
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(1))
    state = training.init_state(variables, optimizer, config, mesh)
    for number, share in ((0, 0.0), (2, 0.0), (4, 0.5), (6, 1.0), (9, 1.0)):
        resumed = jax.tree.map(jnp.copy, state._replace(step=jnp.asarray(number, jnp.int32)))
        _, told = step(jax.device_put(resumed, sharding.replicated(mesh)), BATCH, jax.random.key(0))
        assert float(told["eps"]) == pytest.approx(EPS * share)
        assert float(told["kappa"]) == pytest.approx(1 - (1 - KAPPA) * share)
        if not share:  # on clean images alone
            assert float(told["loss"]) == pytest.approx(float(told["cross_entropy"]), rel=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IBP(network=dataclasses.replace(TWO_LAYERS, norm=True)), "without BatchNorm"),
        (lambda: IBP(network=TWO_LAYERS, dtype="bfloat16"), "in float32"),
        (
            lambda: IBP(network=TWO_LAYERS, changes=(methods.ActivationNoise(0.1),)),
            "draws nothing in training",
        ),
        (
            lambda: methods.BatchEnsemble(network=TWO_LAYERS, terms=(WorstCase(),)),
            "terms=WorstCase to ask",
        ),
        (
            lambda: methods.MonteCarloDropout(network=TWO_LAYERS, terms=(WorstCase(),)),
            "draws nothing in training",
        ),
        (lambda: IBP(network=TWO_LAYERS, eps=-0.1), "eps=-0.1 >= 0"),
        (lambda: IBP(network=TWO_LAYERS, kappa=1.5), "0 <= kappa=1.5 <= 1"),
        (lambda: IBP(network=TWO_LAYERS, ramp_steps=-1), "ramp_steps=-1 >= 0"),
    ],
)
def test_what_is_refused(make, words):
    """In one line, before anything is trained."""
    with pytest.raises(ValueError, match=words) as caught:
        make().make(TASK)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_programs")
def test_what_is_trained_is_certified():
    """Intervals certify digits; CROWN certifies at least those, and no attack breaks one."""
    data, eps = open_data(DataConfig(Digits())), 0.1
    network = CNNConfig(
        widths=(8, 16), strides=(1, 2), conv_bias=True, norm=False, positions=4, hidden=(32,)
    )
    method = IBP(network=network, eps=eps, warmup_steps=50, ramp_steps=200).make(data.task)
    mesh, config, optimizer = sharding.make_mesh(1), TrainingConfig(), optax.sgd(0.02, momentum=0.9)
    step = training.make_train_step(method, optimizer, config, Augmentation(), mesh)
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
    state = training.init_state(variables, optimizer, config, mesh)
    batches = list(eval_batches(data.train, 128))[:-1]
    for number in range(400):
        state, _ = step(state, batches[number % len(batches)], jax.random.key(0))
    variables = state.variables
    batch = next(eval_batches(data.test, 32))
    attack = PGD(ThreatModel("linf", eps), num_steps=20, step_size=0.02)

    @jax.jit
    def stand(variables, images, labels):
        view = bind(method.view("deployed"), variables)
        found = attack(view, images, labels, key=jax.random.key(1))
        return jnp.argmax(view(found, key=None), axis=-1) == labels

    stands = np.asarray(stand(variables, batch.image, batch.label))
    logits = jax.tree_util.Partial(lambda v, x: method.predict(v, x, key=None), variables)
    found = {
        bound: Margins(eps, bound=bound, intermediate="interval")(logits, batch.image, batch.label)
        for bound in ("interval", "interval_elided", "crown")
    }
    holds = {bound: certificate.label >= 0 for bound, certificate in found.items()}
    margins = {bound: certificate.margin for bound, certificate in found.items()}
    # Rounding of float32, of margins of size ten.
    assert np.all(margins["interval_elided"] <= margins["crown"] + 1e-4)
    assert np.all(margins["interval"] <= margins["interval_elided"] + 1e-4)
    assert holds["interval_elided"].mean() > 0.5
    for bound in found:
        assert np.all(stands[holds[bound]])


def test_the_loss_is_a_sum_of_terms():
    (clean, worst) = IBP(network=TWO_LAYERS, **AT_ONCE).all_terms
    assert (clean, worst) == (CrossEntropy(), WorstCase(**AT_ONCE))
