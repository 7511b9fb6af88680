"""Random layer sampling: selection, its gradient, statistics, losses and views."""

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import rng
from robust_jax.methods import RandomLayerSampling, Standard
from robust_jax.methods.random_layer_sampling import group_loss
from robust_jax.methods.sampled_layers import sampled_layers, unit_name
from robust_jax.models import Classifier, CNNConfig, EnsembleConfig, ResNetConfig, VGGConfig
from robust_jax.types import Batch, Task

TASK = Task((8, 8, 1), 4, 100)
CNN = CNNConfig(widths=(4, 5), strides=(2, 1))
UNITS = ("conv1", "conv2", "linear")
IMAGES = jax.random.uniform(jax.random.key(9), (6, 8, 8, 1))
BATCH = Batch(IMAGES, jnp.array([0, 1, 2, 3, 0, 1]), jnp.ones(6, bool), jnp.arange(6))


def initialise(config, task=TASK):
    variables = jax.jit(lambda key: config.make(task).init(key=key))(jax.random.key(0))
    # Statistics that tell the M apart.
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            leaf + jax.random.uniform(jax.random.key(len(path)), leaf.shape)
            if path[0].key == "batch_stats"
            else leaf
        ),
        variables,
    )


def chosen(model):
    """A sampled model from the index of each unit."""
    return lambda unit: jnp.asarray(model[unit], jnp.int32)


def plain_variables(variables, model):
    """The plain network's arrays: those of each layer's unit, cut out of the stacks."""

    def cut(path, leaf):
        layer = path[2].key.replace("norm", "conv")
        return leaf[model[layer]]

    return jax.tree_util.tree_map_with_path(cut, variables)


@pytest.fixture(scope="module")
def config():
    return RandomLayerSampling(network=CNN, num_choices=3)


@pytest.fixture(scope="module")
def variables(config):
    return initialise(config)


def test_a_sampled_model_is_the_plain_network_of_its_weights(config, variables):
    plain = jax.jit(Standard(network=CNN).make(TASK).taps)

    @jax.jit
    def sampled(indices):
        choose = chosen(dict(zip(UNITS, indices, strict=True)))
        return config.models(TASK).run(choose, variables, IMAGES, train=False)[0].taps

    for indices in ((0, 0, 0), (2, 1, 0), (1, 2, 2)):
        model = dict(zip(UNITS, indices, strict=True))
        expected = plain(plain_variables(variables, model), IMAGES, key=None)
        chex.assert_trees_all_close(sampled(jnp.array(indices)), expected, rtol=1e-5, atol=1e-6)
    assert sampled._cache_size() == 1


def test_gradient_and_statistics_of_the_selected_weights_alone(config, variables):
    model = {"conv1": 2, "conv2": 0, "linear": 1}

    @jax.jit
    def gradient(params):
        def total(params):
            found = {**variables, "params": params}
            outputs, moved = config.models(TASK).run(chosen(model), found, IMAGES, train=True)
            return jnp.sum(jnp.sin(outputs.logits)), moved

        return jax.grad(total, has_aux=True)(params)

    gradients, moved = gradient(variables["params"])
    change = jax.tree.map(lambda a, b: a - b, moved, {"batch_stats": variables["batch_stats"]})
    for tree in ({"params": gradients}, change):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            index = model[path[2].key.replace("norm", "conv")]
            for m in range(3):
                # Before BatchNorm a kernel's scale has no slope, its direction has.
                assert bool(jnp.any(leaf[m] != 0)) == (m == index), (path, m)


@pytest.mark.slow
def test_statistics_move_once_per_draw(config, variables):
    """The loss moves them as its K models do one after another."""
    method = config.make(TASK)
    key = jax.random.key(3)
    loss = jax.jit(lambda v, key: method.loss(v, BATCH, key=key, step=0))
    value, (moved, _) = loss(variables, key)
    current, logits = variables, []
    for number in range(3):
        choose = config.models(TASK).draw(rng.stream(key, "draw", number))
        outputs, one = jax.jit(
            lambda v, choose=choose: config.models(TASK).run(choose, v, IMAGES, train=True)
        )(current)
        current, logits = {**current, **one}, [*logits, outputs.logits]
    chex.assert_trees_all_close(moved["batch_stats"], current["batch_stats"], rtol=1e-5)
    expected = group_loss(jnp.stack(logits), BATCH.label, "cross_entropy_of_mean")
    assert float(value) == pytest.approx(float(expected), rel=1e-5)


def test_group_losses_by_hand():
    probabilities = np.array(
        [[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], [[0.7, 0.2, 0.1], [0.3, 0.5, 0.2]]]
    )
    logits, labels = jnp.log(jnp.asarray(probabilities, jnp.float32)), jnp.array([0, 2])
    mean = probabilities.mean(0)
    assert float(group_loss(logits, labels, "cross_entropy_of_mean")) == pytest.approx(
        -(np.log(mean[0, 0]) + np.log(mean[1, 2])) / 2, rel=1e-5
    )
    squares = ((mean - np.eye(3)[[0, 2]]) ** 2).sum(-1)
    assert float(group_loss(logits, labels, "mse_of_mean")) == pytest.approx(
        squares.mean(), rel=1e-5
    )
    alone = -np.log(probabilities[:, [0, 1], [0, 2]])
    assert float(group_loss(logits, labels, "mean_cross_entropy")) == pytest.approx(
        alone.mean(), rel=1e-5
    )
    # Krogh and Vedelsby: the error of the mean is the mean error less the models' spread.
    errors = ((probabilities - np.eye(3)[[0, 2]]) ** 2).sum(-1).mean()
    spread = ((probabilities - mean) ** 2).sum(-1).mean()
    assert errors - spread == pytest.approx(squares.mean())


@pytest.mark.slow
def test_predictions_approach_the_mean_over_all_models():
    config = RandomLayerSampling(
        network=CNNConfig(widths=(4,), strides=(2,)), num_draws=600, mu=(0.8, 0.2), frozen=(600,)
    )
    variables, method = initialise(config), config.make(TASK)

    @jax.jit
    def probability(a, b):
        choose = chosen({"conv1": a, "linear": b})
        outputs, _ = config.models(TASK).run(choose, variables, IMAGES, train=False)
        return jax.nn.softmax(outputs.logits)

    expected = sum(
        (0.8, 0.2)[a] * (0.8, 0.2)[b] * probability(a, b)
        for a, b in itertools.product(range(2), repeat=2)
    )
    predict = jax.jit(method.predict)
    for scores in (
        predict(variables, IMAGES, key=jax.random.key(0)),
        jax.jit(method.views["frozen_600"])(variables, IMAGES, key=None),
    ):
        np.testing.assert_allclose(jnp.exp(scores), expected, atol=0.05)
    members = jax.jit(method.views["members"])(variables, IMAGES)
    for m in range(2):
        np.testing.assert_allclose(jax.nn.softmax(members[m]), probability(m, m), rtol=1e-4)


@pytest.mark.slow
def test_frozen_and_fresh_views(config, variables):
    method = config.make(TASK)
    images = IMAGES[:2]
    for name, fixed in (("frozen_1", True), ("frozen_5", True), ("fresh", False)):
        view = jax.jit(method.views[name])
        found = [view(variables, images, key=jax.random.key(seed)) for seed in range(6)]
        same = all(bool(jnp.all(one == found[0])) for one in found[1:])
        assert same == fixed


@pytest.mark.slow
def test_units():
    def units(network, size, unit):
        found = set()

        def note(name):
            found.add(name)
            return jnp.zeros((), jnp.int32)

        backbone = network.make(10, sampled_layers(2, note, unit))
        images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

        def init(key, images):
            return Classifier(backbone).init(key, images, train=False, deterministic=True)

        jax.eval_shape(init, jax.random.key(0), images)
        return found

    assert len(units(ResNetConfig(depth=50), 32, "conv")) == 54
    assert len(units(VGGConfig(16), 32, "conv")) == 14
    # Stem, eight blocks, linear.
    blocks = units(ResNetConfig(depth=18), 32, "block")
    assert len(blocks) == 10
    assert unit_name(("backbone", "layer1_0", "shortcut_norm"), "conv") == "layer1_0.shortcut"
    assert unit_name(("backbone", "layer1_0", "norm2"), "conv") == "layer1_0.conv2"
    assert unit_name(("backbone", "stem_norm"), "block") == "stem"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_choices():
    """Eight choices need no more room for activations than two; weights are counted apart."""

    def room(num_choices):
        config = RandomLayerSampling(
            network=CNNConfig(widths=(4,), strides=(1,)), num_choices=num_choices, num_samples=2
        )
        task = Task((32, 32, 1), 4, 100)
        shapes = jax.eval_shape(config.make(task).init, key=jax.random.key(0))
        batch = Batch(
            jnp.zeros((16, 32, 32, 1)), jnp.zeros(16, jnp.int32), jnp.ones(16, bool), jnp.arange(16)
        )

        def loss(params, rest):
            found = {"params": params, **rest}
            return config.make(task).loss(found, batch, key=jax.random.key(0), step=0)[0]

        rest = {name: value for name, value in shapes.items() if name != "params"}
        compiled = jax.jit(jax.grad(loss)).lower(shapes["params"], rest).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    activations = 4 * 16 * 32 * 32 * 4
    assert room(8) < room(2) + activations / 2


@pytest.mark.slow
def test_reestimated_statistics(variables):
    config = RandomLayerSampling(network=CNN, num_choices=3, statistics="reestimated")
    method = config.make(TASK)
    old = {**variables, "batch_stats": jax.tree.map(lambda a: a + 7.0, variables["batch_stats"])}
    # Eight batches of three draws each: each of the three weights has had its turn.
    fitted = method.fit(old, [BATCH] * 8, key=jax.random.key(0))
    chex.assert_trees_all_equal(fitted["batch_stats"], old["batch_stats"])
    # The first layer's input does not depend on draws: its statistics are those of its outputs.
    for m in range(3):
        model = {"conv1": m, "conv2": 0, "linear": 0}
        taps = config.models(TASK).run(chosen(model), variables, IMAGES, train=False)[0].taps
        found = fitted["fitted"]["batch_stats"]["backbone"]["norm1"]
        for name, moment in (("mean", jnp.mean), ("var", jnp.var)):
            expected = moment(taps["00.conv1"], (0, 1, 2))
            # The first batch's moments are taken around the old mean: roundings of 7 squared.
            np.testing.assert_allclose(found[name][m], expected, rtol=1e-4, atol=3e-5)
    key = jax.random.key(1)
    training = RandomLayerSampling(network=CNN, num_choices=3).make(TASK)
    replaced = {**variables, **fitted["fitted"]}
    np.testing.assert_allclose(
        method.predict(fitted, IMAGES, key=key), training.predict(replaced, IMAGES, key=key)
    )


@pytest.mark.slow
def test_reestimated_statistics_of_what_was_never_drawn_are_refused(variables):
    config = RandomLayerSampling(
        network=CNN, num_choices=3, mu=(1.0, 0.0, 0.0), num_samples=1, statistics="reestimated"
    )
    fitted = config.make(TASK).fit(variables, [BATCH], key=jax.random.key(0))
    found = fitted["fitted"]["batch_stats"], variables["batch_stats"]
    # What is drawn in no deployment keeps its statistics.
    chex.assert_trees_all_equal(*jax.tree.map(lambda leaf: leaf[1:], found))
    method = dataclasses.replace(config, mu=()).make(TASK)
    with pytest.raises(ValueError, match="Expected more than 1 batches: a layer of"):
        method.fit(variables, [BATCH], key=jax.random.key(0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_choices": 0}, "Expected num_choices=0 >= 1."),
        ({"num_samples": 0}, "Expected num_samples=0 >= 1."),
        ({"num_draws": 0}, "Expected num_draws=0 >= 1."),
        ({"mu": (0.5, 0.6)}, r"Expected mu=\(0.5, 0.6\) to have num_choices=2 entries and sum 1."),
        ({"mu": (1.0,)}, r"Expected mu=\(1.0,\) to have num_choices=2 entries"),
        ({"vote": "mean_logit"}, "Expected vote='mean_logit' to be 'mean_probability'"),
        ({"frozen": (0,)}, r"Expected frozen=\(0,\) >= 1."),
        ({"network": EnsembleConfig(CNN)}, "to be a single network"),
    ],
)
def test_bad_input(fields, message):
    with pytest.raises(ValueError, match=message):
        RandomLayerSampling(**fields)
