"""REGroup against a plain NumPy implementation on a real network's taps, and by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from robust_jax.attacks import PGD, ThreatModel, bind
from robust_jax.data import DataConfig, Digits, open_data
from robust_jax.interop import torch as importer
from robust_jax.methods import REGroup, regroup_pass
from robust_jax.methods.regroup_fit import choose
from robust_jax.models import (
    CNNConfig,
    EnsembleConfig,
    PreActResNetConfig,
    ResNetConfig,
    default_layers,
)
from robust_jax.types import Batch, Task
from tests import small

TASK = Task((8, 8, 1), 10, 100)
CNN = CNNConfig(widths=(16, 24), strides=(1, 2))


def numpy_responses(output, delta):
    """Algorithm 1, lines 3 to 6, of one image in float64: p and n."""
    output = np.asarray(output, np.float64).reshape(-1, output.shape[-1])
    found = []
    for sign in (1, -1):
        total = np.array([np.maximum(0, sign * channel).sum() for channel in output.T]) + delta
        found.append(total / total.sum())
    return found


def numpy_fit(taps, logits, labels, delta):
    """The class mixtures of every tap: by tap and sign [c k]."""
    logits, labels = np.asarray(logits), np.asarray(labels)
    probability = scipy.special.softmax(np.asarray(logits, np.float64), axis=-1)
    num_classes = logits.shape[-1]
    mixtures = {}
    for name, found in taps.items():
        outputs = np.asarray(found)
        classes = np.zeros((2, num_classes, outputs.shape[-1]))
        for y in range(num_classes):
            members = [j for j in range(len(labels)) if labels[j] == y and logits[j].argmax() == y]
            total = sum(probability[j, y] for j in members)
            for j in members:
                for s, response in enumerate(numpy_responses(outputs[j], delta)):
                    classes[s, y] += probability[j, y] / total * response
        mixtures[name] = classes
    return mixtures


def numpy_predict(taps, mixtures, delta):
    """Borda counts of every image."""
    from scipy import stats

    taps = {name: np.asarray(tap) for name, tap in taps.items()}
    num_images = len(next(iter(taps.values())))
    num_classes = next(iter(mixtures.values())).shape[1]
    counts = np.zeros((num_images, num_classes))
    for name, classes in mixtures.items():
        for b in range(num_images):
            for s, response in enumerate(numpy_responses(taps[name][b], delta)):
                kl = [np.sum(c * np.log(c / response)) for c in classes[s]]
                counts[b] += num_classes - stats.rankdata(kl, method="ordinal")
    return counts


def batches_of(images, labels, size):
    """Batches whose last rows are padding that must not count."""
    for start in range(0, len(images), size):
        image, label = images[start : start + size], labels[start : start + size]
        mask = jnp.arange(size) < len(image)
        pad = size - len(image)
        yield Batch(
            jnp.concatenate([image, jnp.tile(images[:1], (pad, 1, 1, 1))]),
            jnp.concatenate([label, jnp.tile(labels[:1], pad)]),
            mask,
            jnp.arange(size),
        )


@pytest.mark.slow
def test_equals_numpy_on_the_taps_of_a_public_network(public_checkpoints):
    pytest.importorskip("torch", reason="needs the extra robust_jax[torch]")
    file = public_checkpoints / "akamaster_resnet20_cifar10.th"
    network, normalization, variables = importer.import_state_dict(
        importer.load_state_dict(file), "resnet20_akamaster"
    )
    config = REGroup(network=network, normalization=normalization)
    method = config.make(Task((32, 32, 3), 10, 50_000))
    # Blurred noise: no dataset is needed, and every class is predicted among 300 such images.
    noise = jax.random.normal(jax.random.key(0), (300, 4, 4, 3))
    images = jax.nn.sigmoid(2 * jax.image.resize(noise, (300, 32, 32, 3), "cubic"))
    outputs = jax.jit(
        lambda variables, images: (
            method.views["surrogate"](variables, images, key=None),
            method.taps(variables, images, key=None),
        )
    )
    logits, taps = outputs(variables, images)
    # Noise has its favourite classes; with this bias every class has images.
    linear = variables["params"]["backbone"]["linear"]
    linear["bias"] = linear["bias"] - jnp.mean(logits, axis=0)
    logits, taps = outputs(variables, images)
    labels = jnp.argmax(logits, axis=-1)
    wrong = jnp.arange(300) % 7 == 0
    labels = jnp.where(wrong, (labels + 1) % 10, labels)

    fitted = method.fit(variables, batches_of(images, labels, 128), key=jax.random.key(0))
    names = [name for name in taps if not name.endswith(".pre_act")][-5:]
    assert len(names) == 5
    expected = numpy_fit({name: taps[name] for name in names}, logits, labels, 1e-20)
    assert fitted["fitted"].keys() == {"positive", "negative"}
    for s, sign in enumerate(("positive", "negative")):
        assert sorted(fitted["fitted"][sign]) == names
        for name in names:
            found = fitted["fitted"][sign][name]
            np.testing.assert_allclose(found[0].sum(-1), 1.0, rtol=1e-5)
            np.testing.assert_allclose(found[0], expected[name][s], rtol=2e-3, atol=1e-7)

    found = np.asarray(jax.jit(method.predict)(fitted, images[:60]))
    counts = numpy_predict({name: taps[name][:60] for name in names}, expected, 1e-20)
    # Two divergences that differ by less than float32 sees may swap: one point each.
    assert np.mean(found == counts) > 0.99
    assert np.abs(found - counts).max() <= 1
    np.testing.assert_array_equal(found.sum(-1), np.full(60, 10 * 45))


@pytest.fixture(scope="module")
def digits():
    return open_data(DataConfig(Digits()))


@pytest.fixture(scope="module")
def trained(digits):
    """Variables of a small network that knows the digits, and images."""
    config = REGroup(network=CNN, num_layers=3)
    return small.trained(config.make(digits.task), digits)


def fit(config, trained, size=128):
    variables, batch = trained
    method = config.make(Task((8, 8, 1), 10, 512))
    batches = batches_of(batch.image, batch.label, size)
    return method, method.fit(variables, batches, key=jax.random.key(0))


@pytest.mark.slow
def test_batch_size_does_not_matter_and_predictions_are_good(trained):
    config = REGroup(network=CNN, num_layers=3)
    method, fitted = fit(config, trained)
    _, again = fit(config, trained, size=200)
    chex.assert_trees_all_close(fitted, again, rtol=1e-4, atol=1e-7)
    batch = trained[1]
    scores = jax.jit(method.predict)(fitted, batch.image)
    assert jnp.mean(jnp.argmax(scores, -1) == batch.label) > 0.6


@pytest.mark.slow
def test_first_images_of_each_class(trained):
    variables, batch = trained
    config = REGroup(network=CNN, num_layers=3, images_per_class=7)
    _, fitted = fit(config, trained)
    method = config.make(TASK)
    logits = jax.jit(method.views["surrogate"])(variables, batch.image)
    right = np.asarray(jnp.argmax(logits, -1) == batch.label)
    rows = np.concatenate(
        [np.flatnonzero(right & (np.asarray(batch.label) == y))[:7] for y in range(10)]
    )
    everything = REGroup(network=CNN, num_layers=3)
    _, expected = fit(
        everything, (variables, batch._replace(image=batch.image[rows], label=batch.label[rows]))
    )
    chex.assert_trees_all_close(fitted, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_rule_of_layer_accuracy(trained):
    """The accuracies that decide are those of one-layer votes on the images of the fit."""
    variables, batch = trained
    taps = ("00.conv1", "01.conv2", "02.head")
    accuracy = {}
    surrogate = jax.jit(REGroup(network=CNN).make(TASK).views["surrogate"])
    right = jnp.argmax(surrogate(variables, batch.image), -1) == batch.label
    for tap in taps:
        method, fitted = fit(REGroup(network=CNN, layers=(tap,), num_layers=1), trained)
        decisions = jnp.argmax(jax.jit(method.predict)(fitted, batch.image), -1)
        accuracy[tap] = float(jnp.sum(right & (decisions == batch.label)) / jnp.sum(right))
    least = sorted(accuracy.values())[1] - 0.001
    expected = choose(accuracy, least)
    config = REGroup(network=CNN, num_layers=None, layer_accuracy=least)
    _, fitted = fit(config, trained)
    assert tuple(sorted(fitted["fitted"]["positive"])) == expected


@pytest.mark.slow
def test_signs_and_views(trained):
    _, batch = trained
    images = batch.image[:16]
    both, fitted = fit(REGroup(network=CNN, num_layers=2), trained)
    total = 0
    for sign in ("positive", "negative"):
        method, alone = fit(REGroup(network=CNN, num_layers=2, responses=sign), trained)
        assert alone["fitted"].keys() == {sign}
        total = total + jax.jit(method.predict)(alone, images)
    scores = jax.jit(both.predict)(fitted, images)
    np.testing.assert_array_equal(scores, total)
    # Four voters; a class has 4.5 of 9 points on average.
    seen = jax.jit(lambda v, x: {name: view(v, x, key=None) for name, view in both.views.items()})(
        fitted, images
    )
    deployed = seen["deployed"]
    np.testing.assert_allclose((deployed + 4.5) * 4, scores, rtol=1e-5)
    slopes = [
        jax.jit(jax.grad(lambda x, view=both.views[name]: jnp.sum(view(fitted, x)[:, 3])))(images)
        for name in ("deployed", "soft_borda")
    ]
    chex.assert_trees_all_close(*slopes, rtol=1e-5, atol=1e-7)
    members = seen["members"]
    assert members.shape == (4, 16, 10)
    matched = seen["feature_match"]
    assert matched.shape == (16, 10)
    # Mixtures of responses are likest to the images of their own class.
    right = seen["surrogate"].argmax(-1) == batch.label[:16]
    assert jnp.mean(matched.argmax(-1)[right] == batch.label[:16][right]) > 0.5
    close = REGroup(network=CNN, num_layers=2, surrogate_delta=1e-20).make(TASK)
    np.testing.assert_allclose(
        jax.jit(close.views["kl_margin"])(fitted, images), members.sum(0), rtol=1e-4, atol=1e-3
    )


@pytest.mark.slow
def test_two_classes_and_one_voter_do_not_look_like_probabilities(trained):
    two = jax.tree.map(lambda leaf: leaf[:16], trained[1])
    task = TASK._replace(num_classes=2)
    method = REGroup(network=CNN, num_layers=1, responses="positive").make(task)
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
    surrogate = jax.jit(method.views["surrogate"])
    logits = surrogate(variables, two.image)
    # Half of the images are of either class.
    linear = variables["params"]["backbone"]["linear"]
    linear["bias"] -= jnp.median(logits - logits[:, :1], axis=0)
    right = jnp.argmax(surrogate(variables, two.image), -1)
    assert jnp.sum(right) == 8
    fitted = method.fit(variables, [two._replace(label=right)], key=None)
    view = bind(method.views["deployed"], fitted)
    attack = PGD(ThreatModel("linf", 0.1), num_steps=2, loss="margin")
    attacked = attack(view, two.image, right, key=jax.random.key(1))
    assert jnp.max(jnp.abs(attacked - two.image)) <= 0.1 + 1e-6
    np.testing.assert_allclose(jnp.sum(view(attacked, key=None), -1), 0, atol=1e-6)


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(EnsembleConfig(CNN, 2), marks=pytest.mark.slow),
        pytest.param(ResNetConfig(depth=20, widths=(4, 4, 8)), marks=pytest.mark.slow),
        pytest.param(PreActResNetConfig(widths=(4, 4, 4, 8)), marks=pytest.mark.nightly),
    ],
    ids=["ensemble", "resnet", "preact"],
)
def test_every_backbone(network):
    method = REGroup(network=network, num_layers=4 if "CNN" not in str(network) else 2).make(TASK)
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (64, 8, 8, 1))
    logits = jax.jit(method.views["surrogate"])(variables, images, key=None)
    # Labels are the network's own decisions, so a class that it never takes has no example.
    labels = jnp.argmax(logits, axis=-1)
    batches = list(batches_of(images, labels, 64))
    missing = sorted(set(range(10)) - set(labels.tolist()))
    if missing:
        with pytest.raises(ValueError, match=f"Expected class {missing[0]} to have at least one"):
            method.fit(variables, batches, key=None)
    method = REGroup(network=network, num_layers=2).make(TASK._replace(num_classes=1))
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
    batches = list(batches_of(images, jnp.zeros_like(labels), 64))
    fitted = method.fit(variables, batches, key=None)
    assert jax.jit(method.predict)(fitted, images).shape == (64, 1)
    num_members = 2 if isinstance(network, EnsembleConfig) else 1
    assert jax.jit(method.views["members"])(fitted, images).shape == (4 * num_members, 64, 1)


@pytest.mark.slow
def test_responses_of_batch_norm(trained):
    """BatchNorm's outputs are those of its own formula on the raw taps."""
    variables, batch = trained
    config = REGroup(network=CNN, num_layers=3, response="norm")
    method, fitted = fit(config, trained)
    assert sorted(fitted["fitted"]["positive"]) == ["00.norm1", "01.norm2", "02.head"]
    assert initialise(config).keys() == variables.keys()
    taps = method.taps(variables, batch.image, key=None)
    params, statistics = (
        variables[name]["backbone"]["norm2"] for name in ("params", "batch_stats")
    )
    factor = params["scale"] / jnp.sqrt(statistics["var"] + 1e-5)
    wide = (None, None, None)
    norm = (taps["01.conv2"] - statistics["mean"][wide]) * factor[wide] + params["bias"][wide]
    logits = method.views["surrogate"](variables, batch.image, key=None)
    expected = numpy_fit({"norm2": np.asarray(norm)}, np.asarray(logits), batch.label, 1e-20)
    for s, sign in enumerate(("positive", "negative")):
        found = fitted["fitted"][sign]["01.norm2"][0]
        np.testing.assert_allclose(found, expected["norm2"][s], rtol=1e-3, atol=1e-6)


def initialise(config):
    return jax.eval_shape(config.make(TASK).init, key=jax.random.key(0))


@pytest.mark.slow
def test_an_ensemble_fits_by_what_it_votes():
    """Of members of other scales the mean logit decides otherwise than the mean probability."""
    method = REGroup(network=EnsembleConfig(CNN, 3), num_layers=2)
    variables = jax.jit(lambda key: method.make(TASK).init(key=key))(jax.random.key(0))
    head = variables["params"]["backbone"]["member"]["linear"]
    head["kernel"] = jnp.zeros_like(head["kernel"])
    # One is sure of class 0, two of class 1, less so.
    head["bias"] = jnp.zeros_like(head["bias"]).at[0, 0].set(10.0).at[1:, 1].set(4.0)
    images = jax.random.uniform(jax.random.key(1), (64, 8, 8, 1))
    network = method.classifier(TASK, default_layers())

    @jax.jit
    def logits(variables, images):
        return regroup_pass.run(network, variables, images, method.vote).logits

    surrogate = jax.jit(method.make(TASK).views["surrogate"])(variables, images, key=None)
    fitted_by = logits(variables, images)
    np.testing.assert_array_equal(jnp.argmax(fitted_by, -1), jnp.argmax(surrogate, -1))
    assert set(jnp.argmax(surrogate, -1).tolist()) == {1}
