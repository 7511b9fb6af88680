"""What every call shares: compiled programs, and names that are checked."""

import functools

import jax
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from robust_jax import attacks
from robust_jax.attacks import FAB, PGD, AutoAttack, DeepFool, ThreatModel
from tests.compilations import count_compilations

KEY = jax.random.key(1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ThreatModel("l3", 0.1),
        lambda: PGD(ThreatModel("linf", 0.1), loss="hinge"),
        lambda: PGD(ThreatModel("linf", 0.1), keep="first"),
        lambda: attacks.eot(lambda images, *, key: images, 2, average="votes"),
    ],
)
def test_names_are_checked(make):
    # The type checker of the tests is asked first; without it the ValueError says the same.
    with pytest.raises((ValueError, TypeCheckError), match=r"l3|hinge|first|votes"):
        make()


@pytest.mark.slow
def test_labels_of_every_integer_dtype(digits):
    # Both carry classes through a loop.
    threat = ThreatModel("l2", 0.5)
    suite = AutoAttack(threat, version="custom", attacks=(FAB(threat, num_steps=2),), batch_size=4)
    images, labels = digits.images[:4], np.asarray(digits.labels[:4])
    for attack in (DeepFool(num_steps=2), suite):
        expected = attack(digits.view, images, labels, key=KEY)
        for dtype in ("i1", "u1", "i2", "u2", "u4", "i8", "u8"):
            found = attack(
                digits.view, images, labels.astype(dtype), key=KEY,
                index=np.arange(4, dtype=dtype),
            )  # fmt: skip
            np.testing.assert_array_equal(found, expected)


def test_other_weights_compile_nothing_anew(digits):
    attack = PGD(ThreatModel("linf", 0.11), num_steps=2)
    attack(digits.view, digits.images, digits.labels, key=KEY)
    other, key = jax.tree.map(lambda leaf: leaf * 2, digits.view), jax.random.key(9)
    run = functools.partial(attack, other, digits.images, digits.labels, key=key)
    assert count_compilations(run) == 0
