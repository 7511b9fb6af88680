"""What every defence promises; a new one adds a row to METHODS."""

import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robust_jax import methods, rng, serialization, training, voting
from robust_jax.attacks import FGSM, PGD, ThreatModel, bind
from robust_jax.data import Augmentation, DataConfig, Digits, eval_batches, open_data
from robust_jax.models import CNNConfig, EnsembleConfig, Normalization
from robust_jax.runtime import sharding
from robust_jax.training import AdversarialTraining, TrainingConfig
from robust_jax.types import Batch

SGD = optax.sgd(0.05, momentum=0.9)
CNN = CNNConfig(widths=(16, 36), strides=(1, 2))
SMALL_CNN = CNNConfig(widths=(8, 12), strides=(1, 2))
ONE_LAYER = CNNConfig(widths=(12,), strides=(2,))
TINY_CNN = CNNConfig(widths=(6,), strides=(2,))

METHODS: dict[str, methods.MethodConfig] = {
    "standard": methods.Standard(
        network=CNN, normalization=Normalization(mean=(0.3,), std=(0.4,)), input_sigma=0.1
    ),
    "ensemble": methods.Standard(
        network=EnsembleConfig(ONE_LAYER, 3), vote="majority_lowest_class"
    ),
    "kap": methods.KAP(network=CNN, sigma=0.1),
    "kap_other_switches": methods.KAP(
        network=CNNConfig(widths=(16,), strides=(2,)),
        pool=methods.KernelPool(kind="max"),
        order="conv_norm_pool",
        sigma=0.2,
        input_sigma=0.1,
        noise_in_prediction=False,
        label_smoothing=0.1,
    ),
    "dropout": methods.MonteCarloDropout(
        network=SMALL_CNN, where="activations", rate=0.2, num_draws=3
    ),
    "lpd": methods.PriorityDropout(network=EnsembleConfig(SMALL_CNN, 2)),
    "pdd_deg": methods.PriorityDropout(
        network=EnsembleConfig(SMALL_CNN, 2),
        rates=methods.PriorityRates(statistics="batch"),
        rescale="inverted",
        deg_weight=0.01,
    ),
    "parl": methods.PARL(network=EnsembleConfig(SMALL_CNN, 2), num_layers=2),
    "parl_parameters": methods.ParameterPARL(network=EnsembleConfig(SMALL_CNN, 2), num_layers=2),
    "batch_ensemble": methods.BatchEnsemble(network=SMALL_CNN, num_members=2, factor_std=0.5),
    "regroup": methods.REGroup(network=CNN, num_layers=2),
    "rls": methods.RandomLayerSampling(network=CNN, num_draws=3, frozen=(2,)),
    "adp": methods.AdaptiveDiversityPromoting(network=EnsembleConfig(TINY_CNN, 2)),
    "gal": methods.GradientAlignment(network=EnsembleConfig(TINY_CNN, 2)),
    "dverge": methods.DVERGE(network=EnsembleConfig(TINY_CNN, 2), num_steps=2),
    "trs": methods.TransferabilityReducedSmooth(network=EnsembleConfig(TINY_CNN, 2), num_steps=2),
    "grad_div": methods.GradDiv(network=TINY_CNN, num_samples=2, num_draws=2),
    "rse": methods.RandomSelfEnsemble(network=TINY_CNN, num_draws=3),
    # Steps along the gradient itself: the sign of one that is zero but for rounding may differ.
    "trades": methods.TRADES(
        network=TINY_CNN,
        attack=PGD(ThreatModel("l2", 0.5), loss="kl", num_steps=2, start_sigma=0.01, keep="last"),
    ),
    "mart": methods.MART(
        network=TINY_CNN,
        attack=PGD(ThreatModel("l2", 0.5), num_steps=2, start_sigma=0.01, keep="last"),
    ),
    "sap": methods.StochasticActivationPruning(network=TINY_CNN, num_draws=3),
    "ibp": methods.IBP(
        network=CNNConfig(widths=(6,), strides=(2,), conv_bias=True, norm=False, hidden=(16,)),
        eps=0.02,
        warmup_steps=0,
        ramp_steps=0,
    ),
}


@pytest.fixture(scope="module")
def data():
    return open_data(DataConfig(Digits()))


@pytest.fixture(scope="module")
def batch(data) -> Batch:
    return next(eval_batches(data.train, 32))


VIEWS = ("deployed", "noise_off", "train", "members")


class Built:
    """A method with its variables and jitted functions, compiled once for all tests."""

    def __init__(self, config, task):
        self.config = config
        self.method = config.make(task)
        self.init = jax.jit(lambda key: self.method.init(key=key))
        self.variables = self.init(jax.random.key(0))

        @jax.jit
        def run(variables, images, key):
            found = {name: self.method.view(name)(variables, images, key=key) for name in VIEWS}
            return found | {"predict": self.method.predict(variables, images, key=key)}

        def loss(params, variables, batch, key):
            return self.method.loss({**variables, "params": params}, batch, key=key, step=0)

        self.run = run  # one program: its parts have most of the network in common
        self.loss_and_gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def fit(self, batch, *, num_steps):
        """Trains on a batch, and fits: what a class is fitted on, the network must have right."""
        _, (variables, _) = self.train(batch, num_devices=1, num_steps=num_steps)
        variables = jax.device_put(variables, jax.devices()[0])
        self.fitted = jax.eval_shape(self.method.fitted, variables, batch)
        self.variables = self.method.fit(variables, [batch], key=jax.random.key(0))

    def __call__(self, images, seed):
        """Returns the prediction and some views, by name, of images under a key."""
        return self.run(self.variables, images, jax.random.key(seed))

    def gradients(self, batch, key):
        return self.loss_and_gradients(self.variables["params"], self.variables, batch, key)

    @functools.cache  # noqa: B019 (one object per method, alive for the session)
    def step(self, num_devices):
        mesh = sharding.make_mesh(num_devices)
        config = TrainingConfig(ema_decay=0.9)
        return training.make_train_step(self.method, SGD, config, Augmentation(), mesh), mesh

    def train(self, batch, *, num_devices, num_steps):
        """Returns the losses of some steps on one batch, and the state after them."""
        step, mesh = self.step(num_devices)
        variables = jax.device_put(self.variables, sharding.replicated(mesh))
        state = training.init_state(variables, SGD, TrainingConfig(ema_decay=0.9), mesh)
        batch = jax.device_put(batch, sharding.batched(mesh))
        losses = []
        for _ in range(num_steps):
            state, metrics = step(state, batch, jax.random.key(0))
            losses.append(float(metrics["loss"]))
        return losses, jax.device_get((state.variables, state.average))


# Each is another setting of a method above, or its later objective.
VARIANTS = ("kap_other_switches", "pdd_deg", "parl_parameters", "mart", "ibp")


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=pytest.mark.nightly) if n in VARIANTS else n for n in METHODS],
)
def built(request, data, batch) -> Built:
    """A method as it starts; one that is fitted knows the batch after these steps."""
    found = Built(METHODS[request.param], data.task)
    if found.method.fit is not None:
        found.fit(batch, num_steps=60)
    return found


@pytest.fixture(scope="module")
def few(batch) -> Batch:
    """The first images alone: what most tests predict on, so that few programs are compiled."""
    return jax.tree.map(lambda leaf: leaf[:8], batch)


@pytest.mark.quick_one_in(3)
def test_shapes_and_dtypes(built, batch, few):
    if built.method.fit is not None:
        chex.assert_trees_all_equal_shapes_and_dtypes(built.variables, built.fitted)
    found = built(few.image, 1)
    chex.assert_shape(found["predict"], (8, 10))
    for name in ("deployed", "noise_off", "train"):
        chex.assert_shape(found[name], (8, 10))
        chex.assert_type(found[name], jnp.float32)
    chex.assert_shape(found["members"], (None, 8, 10))
    key = jax.random.key(1)
    # Traced, not compiled: the values are those of the steps below.
    (value, (collections, metrics)), gradients = jax.eval_shape(built.gradients, batch, key)
    chex.assert_shape([value, *metrics.values()], ())
    chex.assert_trees_all_equal_shapes_and_dtypes(gradients, built.variables["params"])
    for name, moved in collections.items():
        chex.assert_trees_all_equal_shapes_and_dtypes(moved, built.variables[name])


@pytest.mark.slow  # the steps below move every parameter; this asks for the gradients themselves
def test_gradients_reach_every_parameter(built, batch):
    largest = jax.tree.map(jnp.zeros_like, built.variables["params"])
    for seed in range(8):
        _, gradients = built.gradients(batch, jax.random.key(seed))
        chex.assert_tree_all_finite(gradients)
        largest = jax.tree.map(lambda a, b: jnp.maximum(a, jnp.abs(b)), largest, gradients)
    for path, value in jax.tree_util.tree_leaves_with_path(largest):
        assert jnp.max(value) > 0, jax.tree_util.keystr(path)


@pytest.mark.slow
def test_jit_equals_eager(built, few):
    chex.assert_trees_all_close(
        built.method.predict(built.variables, few.image, key=jax.random.key(2)),
        built(few.image, 2)["predict"],
        rtol=1e-4,
        atol=1e-5,
    )


def test_prediction_is_random_as_declared(built, few):
    first, again, other = (built(few.image, seed)["predict"] for seed in (1, 1, 2))
    chex.assert_trees_all_equal(first, again)
    assert bool(jnp.any(first != other)) == built.method.stochastic
    if built.method.stochastic:
        with pytest.raises(ValueError, match="Expected key=None to be a key"):
            built.method.predict(built.variables, few.image, key=None)
    else:
        keyless = jax.jit(lambda *given: built.method.predict(*given, key=None))(
            built.variables, few.image
        )
        chex.assert_trees_all_close(keyless, first, atol=1e-5)


def test_rows_have_draws_of_their_own_as_declared(built, few):
    """Copies of an image in one call differ where each row draws, and only there."""
    copies = built(jnp.repeat(few.image[:1], 8, axis=0), 1)["predict"]
    # Rows of one product may be rounded otherwise.
    differ = bool(jnp.any(jnp.abs(copies - copies[:1]) > 1e-5))
    assert differ == (built.method.stochastic and built.method.draws_per == "row")


def test_the_vote_is_the_declared_one(built, few):
    found = built(few.image, 1)
    if built.method.vote is None:
        assert isinstance(built.config, methods.REGroup | methods.RandomLayerSampling)
        return
    voted = voting.scores(found["members"], built.method.vote)
    chex.assert_trees_all_close(found["predict"], voted, rtol=1e-5, atol=1e-5)


def test_noise_off_is_deterministic(built, few):
    one, two = (built(few.image, seed)["noise_off"] for seed in (1, 2))
    chex.assert_trees_all_equal(one, two)


def padded(leaf):
    """Returns the first five rows, and three of zeros."""
    return jnp.concatenate([leaf[:5], jnp.zeros_like(leaf[:3])])


# Alone they are a batch of another size, which is another program.
NUM_ROWS = pytest.mark.parametrize("num_rows", [8, pytest.param(5, marks=pytest.mark.slow)])


@NUM_ROWS
def test_padding_rows_change_nothing(built, few, num_rows):
    """Five rows have the same scores before others, before zeros, and alone."""
    one, found = built(few.image[:num_rows], 3), built(padded(few.image), 3)
    for name in ("predict", "deployed", "noise_off"):
        chex.assert_trees_all_close(found[name][:5], one[name][:5], atol=1e-5)


@pytest.mark.slow
def test_attack_does_not_see_padding(built, few):
    attack = PGD(ThreatModel("linf", 0.1), num_steps=2)

    @jax.jit
    def attacked(variables, images, labels):
        view = bind(built.method.views["noise_off"], variables)
        return attack(view, images, labels, key=jax.random.key(4))

    alone = attacked(built.variables, few.image[:5], few.label[:5])
    found = attacked(built.variables, padded(few.image), padded(few.label))
    chex.assert_trees_all_close(found[:5], alone, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "built",
    [name for name in METHODS if name not in VARIANTS],
    indirect=True,
    scope="module",
)
def test_every_view_is_differentiable(built, few):
    def total(images, view):
        found = view(built.variables, images, key=jax.random.key(5))
        # Squares, because batch statistics make a plain sum constant.
        return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(found))

    @jax.jit
    def slopes(images):
        return {n: jax.grad(total)(images, view) for n, view in built.method.views.items()}

    for name, slope in slopes(few.image).items():
        chex.assert_tree_all_finite(slope)
        assert jnp.max(jnp.abs(slope)) > 0, name


def test_config_survives_json(built):
    text = json.dumps(serialization.to_json(built.config))
    assert serialization.from_json(methods.MethodConfig, json.loads(text)) == built.config


@pytest.mark.slow
def test_ten_steps_lower_the_loss(built, batch):
    losses, (moved, _) = built.train(batch, num_devices=4, num_steps=10)
    assert np.mean(losses[-3:]) < losses[0]
    assert np.all(np.isfinite(losses))
    # Nothing decays here: what has moved had a gradient.
    before = jax.tree_util.tree_leaves_with_path(built.variables["params"])
    for (path, old), new in zip(before, jax.tree.leaves(moved["params"]), strict=True):
        assert np.all(np.isfinite(new)), jax.tree_util.keystr(path)
        assert np.any(new != np.asarray(old)), jax.tree_util.keystr(path)


@pytest.mark.slow
def test_devices_do_not_matter(built, batch):
    # Without adversarial examples: the sign of a gradient that is zero but for rounding may differ.
    expected = built.train(batch, num_devices=1, num_steps=5)
    found = built.train(batch, num_devices=4, num_steps=5)
    # Sums over devices round differently; a parameter near zero has no relative accuracy.
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.quick_one_in(6)
def test_adversarial_training(built, batch):
    """Every method can be trained on its own adversarial examples, by a field of the training."""
    mesh = sharding.make_mesh(1)
    config = TrainingConfig(adversarial=AdversarialTraining(FGSM(ThreatModel("linf", 0.1))))
    step_fn = training.make_train_step(built.method, SGD, config, Augmentation(), mesh)
    state = jax.eval_shape(lambda v: training.init_state(v, SGD, config, mesh), built.variables)
    # Traced, not compiled: what runs is the attack and the loss of the tests above.
    moved, _ = step_fn.eval_shape(state, batch, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(moved, state)


def test_streams_differ():
    key = jax.random.key(0)
    keys = [rng.stream(key, name, number) for name in ("a", "b") for number in (0, 1)]
    data = np.stack([jax.random.key_data(k) for k in keys])
    assert len(np.unique(data, axis=0)) == 4
