"""What a term may ask of a pass, and what a change promises, in every path that a loss can take."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import methods, rng
from robust_jax.methods.network import forward_fn
from robust_jax.methods.objective import by_member
from robust_jax.methods.parl import FeatureGradients
from robust_jax.methods.runs import Asked, Member
from robust_jax.models import CNNConfig, EnsembleConfig
from robust_jax.types import Batch, Task

KEY = jax.random.key(3)
TASK = Task(input_shape=(8, 8, 1), num_classes=3, num_train=12)
NETWORK = CNNConfig(widths=(4,), strides=(2,))
ENSEMBLE = EnsembleConfig(NETWORK, 2)
IMAGES = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1))
BATCH = Batch(
    image=IMAGES,
    label=jnp.array([0, 1, 2, 0]),
    mask=jnp.ones(4, bool),
    index=jnp.arange(4),
)
NOISE = methods.ActivationNoise(0.5)


@dataclasses.dataclass(frozen=True)
class Halved(methods.LayerChange):
    """Images of half the brightness."""

    def on_images(self, images, mode, key):
        return images / 2


@dataclasses.dataclass(frozen=True)
class Epochal(methods.Term):
    """Tells the epoch."""

    epochs = True

    def __call__(self, passed):
        return methods.Value(jnp.zeros(()), {"epoch": passed.epoch.number.astype(jnp.float32)})


def run(config, *, asked):
    network = config.classifier(TASK)
    runs = by_member(config, TASK, network, forward_fn(network, config.all_changes))
    variables = config.make(TASK).init(key=KEY)
    return variables, runs.run(variables, IMAGES, BATCH.label, key=KEY, asked=asked)


@pytest.mark.slow
def test_gradients_are_those_at_the_images_as_they_are_given():
    plain = methods.Standard(network=NETWORK)
    changed = dataclasses.replace(plain, changes=(Halved(),))
    _, found = run(changed, asked=Asked(gradients=True))
    runs = by_member(plain, TASK, plain.classifier(TASK), forward_fn(plain.classifier(TASK)))
    variables = plain.make(TASK).init(key=KEY)
    expected = runs.run(variables, IMAGES / 2, BATCH.label, key=KEY, asked=Asked(gradients=True))
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.gradients, expected.gradients / 2, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_one_draw_alone_has_nothing_to_scatter_from():
    method = methods.Standard(network=NETWORK, terms=(methods.Concentration(),)).make(TASK)
    with pytest.raises(ValueError, match="Expected terms=Concentration of GradDiv's draws"):
        method.loss(method.init(key=KEY), BATCH, key=KEY, step=0)


@pytest.mark.slow
def test_statistics_gathered_without_noise_are_of_changed_images():
    plain = methods.KAP(network=NETWORK, pool=None, noise_off_statistics="reestimated")
    gathered = []
    for config, images in ((plain, IMAGES / 2), (plain, IMAGES), ("changed", IMAGES)):
        if config == "changed":
            config = dataclasses.replace(plain, changes=(Halved(),))
        method = config.make(TASK)
        fitted = method.fit(method.init(key=KEY), [BATCH._replace(image=images)], key=KEY)
        gathered.append(jax.tree.leaves(fitted["fitted"])[0])
    np.testing.assert_allclose(gathered[2], gathered[0], rtol=1e-5)
    assert jnp.max(jnp.abs(gathered[2] - gathered[1])) > 1e-3


def test_gradients_with_running_statistics_are_without_draws():
    config = methods.Standard(network=NETWORK, changes=(NOISE,))
    network = config.classifier(TASK)
    member = Member(network, config.make(TASK).init(key=KEY), IMAGES, KEY, None, config.all_changes)
    drawn, other = (member._replace(key=key) for key in (KEY, jax.random.key(9)))
    running, batch = (FeatureGradients(1, way) for way in ("running", "batch"))
    np.testing.assert_array_equal(running(drawn), running(other))
    np.testing.assert_array_equal(running(drawn), running(member._replace(key=None)))
    assert batch(drawn).shape == running(drawn).shape


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize(
    "config",
    [
        methods.RandomSelfEnsemble(network=NETWORK, num_draws=2),
        methods.REGroup(network=NETWORK, num_layers=1),
        *(
            pytest.param(preset, marks=pytest.mark.slow)
            for preset in (
                methods.KAP(network=NETWORK, pool=None, noise_off_statistics="reestimated"),
                methods.MonteCarloDropout(network=NETWORK, num_draws=2),
                methods.GradDiv(network=NETWORK, num_samples=2),
                methods.RandomLayerSampling(network=NETWORK, frozen=()),
                methods.BatchEnsemble(network=NETWORK, num_members=2),
                methods.PriorityDropout(network=ENSEMBLE),
            )
        ),
    ],
    ids=lambda config: type(config).__name__,
)
def test_epochs_of_the_run_reach_the_terms_of_every_preset(config):
    method = dataclasses.replace(config, terms=(Epochal(),)).make(TASK)
    assert method.in_run is not None
    loss = method.in_run(methods.Epochs(at=lambda step: step * 0 + 7, count=9.0))
    variables = method.init(key=KEY)
    _, (_, report) = jax.eval_shape(
        lambda arrays: loss(arrays, BATCH, key=KEY, step=jnp.asarray(4)), variables
    )
    assert "epoch" in report
    if isinstance(config, methods.RandomSelfEnsemble | methods.REGroup):  # and with values
        told = [
            float(each(variables, BATCH, key=KEY, step=jnp.asarray(4))[1][1]["epoch"])
            for each in (loss, method.loss)
        ]
        assert told == [7.0, 1.0]  # outside a run: 12 images in batches of 4, step 4


def test_a_member_s_passes_of_one_step_draw_apart():
    config = methods.Standard(network=NETWORK, changes=(methods.InputNoise(0.5), NOISE))
    network = config.classifier(TASK)
    member = Member(network, config.make(TASK).init(key=KEY), IMAGES, KEY, None, config.all_changes)
    first, again, second = (
        member.train({}, IMAGES, jnp.asarray(number))[0] for number in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert jnp.max(jnp.abs(first - second)) > 0.01


@pytest.mark.slow
def test_dropout_before_hidden_layers_is_drawn_in_every_pass():
    network = dataclasses.replace(NETWORK, hidden=(6,))
    method = methods.MonteCarloDropout(network=network, num_draws=2).make(TASK)
    variables = method.init(key=KEY)
    members = method.views["members"](variables, IMAGES, key=KEY)
    for number in range(2):
        alone = method.views["one_draw"](variables, IMAGES, key=rng.stream(KEY, "draw", number))
        np.testing.assert_allclose(members[number], alone, rtol=1e-5, atol=1e-6)
    assert jnp.max(jnp.abs(members[0] - members[1])) > 1e-3
