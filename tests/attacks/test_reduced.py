"""The small budget of a trial: every attack says it, and it is small."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import attacks
from robust_jax.attacks import (
    PGD,
    Attack,
    AutoAttack,
    Averaged,
    BoundedAttack,
    Suite,
    ThreatModel,
)

KEY = jax.random.key(3)
THREAT = ThreatModel("linf", 0.05)
ALL = [
    one
    for one in vars(attacks).values()
    if inspect.isclass(one) and issubclass(one, Attack) and not inspect.isabstract(one)
]


def at_defaults(one):
    """Returns an attack as it is by default, with the restarts of a thorough evaluation."""
    fields = {"num_restarts": 5} if "num_restarts" in one.__dataclass_fields__ else {}
    inner = {"attack": PGD(THREAT)} if "attack" in one.__dataclass_fields__ else {}
    inner |= {"attacks": (PGD(THREAT),)} if one is Suite else {}
    if not issubclass(one, BoundedAttack):
        return one()
    return one(THREAT if "linf" in one.norms else ThreatModel("l0", 4.0), **inner, **fields)


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.__name__)
def test_it_is_the_same_attack_and_reduced_once(one):
    attack = at_defaults(one)
    small = attack.reduced()
    assert type(small) is one
    assert small.reduced() == small
    if one in (Averaged, AutoAttack):
        assert small != attack


@pytest.mark.slow
@pytest.mark.parametrize(
    "one", [one for one in ALL if not one.on_host], ids=lambda one: one.__name__
)
def test_a_trial_costs_few_passes(one):
    """A view whose decision nothing changes, so that no search ends before its time.

    It says itself how often it is called; once that is by the check of the view.
    """
    passes = []

    def view(images, *, key=None):
        num_images = len(images)

        def note(_):
            passes.append(num_images // 2)
            return np.float32(0)

        # As a pass itself it is left out where nobody uses what it gives.
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        pixel = jax.lax.stop_gradient(images[0, 0, 0, 0]) + jax.random.uniform(key)
        noted = jax.pure_callback(note, shape, pixel, vmap_method="sequential")
        mean = noted + jnp.mean(images, axis=(1, 2, 3))
        return jnp.stack([1 + 1e-3 * mean] + 9 * [images[:, 0, 0, 0]], axis=1)

    images = jnp.full((2, 6, 6, 1), 0.5)
    attack = at_defaults(one).reduced()
    _, counted = attack.counted(view, images, jnp.zeros(2, int), key=KEY)
    jax.effects_barrier()
    if one is not Averaged:  # whose second forward pass, on the way back, needs no note
        assert counted.forward.tolist() == 2 * [sum(passes) - 1]
    assert 1 < sum(passes) < 3000
