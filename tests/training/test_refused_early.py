"""What would train wrongly, or fail after hours, is one line before the first step."""

import dataclasses
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robust_jax.attacks import PGD, ThreatModel
from robust_jax.commands import train
from robust_jax.data import Blobs, DataConfig, open_data
from robust_jax.data.sources import ArrayExamples
from robust_jax.evaluation.protocol import Evaluation
from robust_jax.experiment import checkpoints
from robust_jax.experiment.config import Config
from robust_jax.methods import (
    DVERGE,
    IBP,
    MART,
    TRADES,
    Divergence,
    Standard,
    TransferabilityReducedSmooth,
)
from robust_jax.models import CNNConfig, EnsembleConfig, Normalization
from robust_jax.runtime import interrupt
from robust_jax.runtime.sharding import RuntimeConfig, make_mesh
from robust_jax.training import (
    AdversarialTraining,
    FreeAdversarialTraining,
    Phase,
    TrainingConfig,
    check_finite,
    init_state,
)
from robust_jax.training.optimizers import Cosine, MultiStep, OptimizerConfig, PiecewiseLinear

NETWORK = CNNConfig(widths=(4,), strides=(2,))
BLOBS = DataConfig(Blobs(num_train=16, num_test=8, image_size=4))
TARGETED = PGD(ThreatModel("linf", 0.1), targeted=True)
FREE = FreeAdversarialTraining(ThreatModel("linf", 0.1))


def config(*phases, data=BLOBS, method=None, optimizer=OptimizerConfig(), **training):
    return Config(
        "early", data, method or Standard(NETWORK),
        optimizer=optimizer,
        training=TrainingConfig(phases=phases, **training),
        evaluation=Evaluation(batch_size=8, sanity=False, measures={}),
        runtime=RuntimeConfig(progress=False, num_devices=1),
    )  # fmt: skip


def run(cfg, workdir):
    train.main(train.Arguments(cfg, workdir=workdir))


@pytest.mark.parametrize("use", [AdversarialTraining, TRADES, MART, Divergence])
def test_attacks_towards_classes_train_nothing(use):
    with pytest.raises(ValueError, match=r"Expected attack of class PGD to be untargeted\."):
        use(attack=TARGETED)


@pytest.mark.parametrize("adversarial", [AdversarialTraining(), FREE])
@pytest.mark.parametrize("method", [DVERGE, TransferabilityReducedSmooth])
def test_what_moves_images_itself_is_not_trained_on_moved_ones(method, adversarial):
    made = method(network=EnsembleConfig(NETWORK, 2))
    with pytest.raises(ValueError, match=r"of the method moves images itself"):
        config(Phase(1.0, 8), method=made, adversarial=adversarial)
    bounded = IBP(network=NETWORK)
    with pytest.raises(ValueError, match="WorstCase of the method moves"):
        config(Phase(1.0, 8), method=bounded, adversarial=adversarial)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    huge = PiecewiseLinear(factors=(1e30, 1e30))
    optimizer = OptimizerConfig(learning_rate=1e30, schedule=huge)
    with pytest.raises(FloatingPointError, match=r"the state after step 1 to be finite; .* none"):
        run(config(Phase(2.0, 8), optimizer=optimizer, max_steps=1), tmp_path)
    assert not list(tmp_path.glob("checkpoints/*"))


def test_what_a_run_goes_on_from_is_finite_too():
    variables = {"params": {"kernel": jnp.ones(3)}}
    state = init_state(
        variables, optax.sgd(0.1, 0.9), TrainingConfig(adversarial=FREE), make_mesh(1), (2, 2, 2, 1)
    )
    check_finite(state, None)
    assert state.perturbation is not None
    for lost in (
        state._replace(perturbation=state.perturbation.at[0, 0].set(jnp.nan)),
        state._replace(optimizer=jax.tree.map(lambda x: x + jnp.inf, state.optimizer)),
    ):
        with pytest.raises(FloatingPointError, match="that of step 3"):
            check_finite(lost, 3)


LATER = {
    "no other size": (
        Phase(1.0, 8, image_size=6), BLOBS, Standard(NETWORK), "Expected image_size=6"
    ),
    "no size at all": (
        Phase(1.0, 8, image_size=4), BLOBS, Standard(NETWORK), "Expected image_size=4"
    ),
    "a mean image": (
        Phase(1.0, 8, image_size=6),
        dataclasses.replace(BLOBS, image_size=4),
        Standard(NETWORK, normalization=Normalization(statistics="train_pixel")),
        "Expected training in phase 2 to run on this model: TypeError",
    ),
    "no half": (
        Phase(1.0, 1), BLOBS, TransferabilityReducedSmooth(network=EnsembleConfig(NETWORK, 2)),
        "Expected training in phase 2 .* batch_size=1 >= 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LATER)
def test_a_later_phase_fails_before_the_first(case, tmp_path):
    phase, data, method, message = LATER[case]
    with pytest.raises(ValueError, match=message):
        run(config(Phase(1.0, 8), phase, data=data, method=method), tmp_path)
    assert not list(tmp_path.glob("checkpoints/*"))
    if case == "no half":  # what the run does not come to is not asked
        cut = config(Phase(1.0, 8), phase, data=data, method=method, max_steps=2)
        train.make_parts(cut, make_mesh(1))


@pytest.mark.slow
def test_a_run_goes_on_without_what_it_started_from(tmp_path, monkeypatch):
    run(config(Phase(1.0, 8)), tmp_path / "first")
    then = config(Phase(2.0, 8), init_from=str(tmp_path / "first"))
    run(then, tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(interrupt.Watch, "requested", lambda self, step: step == 1)
        run(then, tmp_path / "stopped")
    assert checkpoints.resumable_step(tmp_path / "stopped", then) == 1
    shutil.rmtree(tmp_path / "first")
    run(then, tmp_path / "whole")  # it is trained
    run(then, tmp_path / "stopped")
    ends = [checkpoints.load(tmp_path / name, make_mesh(1)) for name in ("whole", "stopped")]
    assert [one.step for one in ends] == [4, 4]
    chex.assert_trees_all_equal(*(one.variables for one in ends))


@dataclasses.dataclass(frozen=True)
class Fractions(Blobs):
    def load(self):
        splits = super().load()
        train_images = splits.train.images / np.float32(255)
        return splits._replace(train=ArrayExamples(train_images, splits.train.labels))


def test_sources_give_bytes():
    with pytest.raises(ValueError, match=r"Expected train images of dtype uint8 .* found float32"):
        open_data(DataConfig(Fractions(num_train=16, image_size=4)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiStep((1.0,), warmup=-1.0), "Expected warmup=-1.0 >= 0"),
        (lambda: MultiStep((-1.0,)), "Expected epochs="),
        (lambda: Cosine(final=-2.0), "Expected final=-2.0 >= 0"),
        (lambda: PiecewiseLinear((), ()), "Expected epochs="),
        (lambda: PiecewiseLinear((0.0, 1.0), (1.0, -1.0)), "Expected factors="),
        (lambda: Cosine(warmup=3.0).make(lambda epoch: int(10 * epoch), 2.0), "warmup=3.0 < 2.0"),
        (lambda: Phase(1.0, image_size=0), "Expected image_size=0 >= 1"),
        (lambda: Phase(float("nan")), "Expected epochs=nan > 0"),
    ],
)
def test_numbers_of_schedules_and_phases(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_two_falls_at_one_step_are_two():
    factor = MultiStep((1.0, 1.01)).make(lambda epoch: int(10 * epoch), 3.0)
    assert [float(factor(step)) for step in (9, 11)] == pytest.approx([1.0, 0.01])
