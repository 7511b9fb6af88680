"""A run so small that a test can train it: real digits, one convolution."""

import dataclasses

import jax
import optax

from robust_jax.attacks import FGSM, PGD, ThreatModel
from robust_jax.data import Augmentation, Data, DataConfig, Digits, eval_batches
from robust_jax.evaluation.protocol import AttackRun, Evaluation, Selection
from robust_jax.experiment.config import Config
from robust_jax.methods import KAP, Method, MethodConfig, Standard
from robust_jax.models import CNNConfig
from robust_jax.runtime.sharding import RuntimeConfig
from robust_jax.training import Phase, TrainingConfig
from robust_jax.training.optimizers import OptimizerConfig
from robust_jax.types import Batch, Variables

THREAT = ThreatModel("linf", 0.1)
NETWORK = CNNConfig(widths=(16,), strides=(2,))


def config(method: MethodConfig | None = None, **training: object) -> Config:
    """Returns a configuration of 22 steps; `training` replaces fields of that section.

    Its evaluation probes nothing: tests of probes and of the report ask for them.
    """
    section = TrainingConfig(phases=(Phase(epochs=2.0, batch_size=104),), ema_decay=0.9)
    return Config(
        name="small",
        data=DataConfig(
            Digits(), validation_size=200, augmentation=Augmentation(crop_padding=1, flip=True)
        ),
        method=method or Standard(network=NETWORK),
        optimizer=OptimizerConfig(weight_decay=1e-4),
        training=dataclasses.replace(section, **training),
        evaluation=Evaluation(
            attacks={
                "fgsm": AttackRun(FGSM(THREAT)),
                "pgd": AttackRun(PGD(THREAT, num_steps=3)),
            },
            measures={},
            selection=Selection(num_examples=90),
            batch_size=40,
            sanity=False,
        ),
        runtime=RuntimeConfig(num_devices=1, log_every=5, progress=False),
    )


def noisy() -> KAP:
    """Returns a random method."""
    return KAP(network=NETWORK, sigma=0.2)


def trained(method: Method, data: Data, num_steps: int = 100) -> tuple[Variables, Batch]:
    """Returns a network's arrays after some steps on 512 digits, and those digits."""
    batch = next(eval_batches(data.train, 512))
    optimizer = optax.sgd(0.1, momentum=0.9)

    def step(carry, _):
        variables, state = carry

        def loss(params):
            found = {**variables, "params": params}
            return method.loss(found, batch, key=jax.random.key(0), step=0)

        gradients, (moved, _) = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = optimizer.update(gradients, state)
        params = optax.apply_updates(variables["params"], updates)
        return ({**variables, "params": params, **moved}, state), None

    @jax.jit
    def run(key):
        variables = method.init(key=key)
        state = optimizer.init(variables["params"])
        return jax.lax.scan(step, (variables, state), length=num_steps)[0][0]

    return run(jax.random.key(0)), batch
