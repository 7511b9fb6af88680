"""What is checked of every call."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import attacks
from robust_jax.attacks import APGD, FGSM, PGD, AutoAttack, Boundary, Square, ThreatModel

KEY = jax.random.key(1)
THREAT = ThreatModel("linf", 0.1)


def test_images_and_labels_are_checked(digits):
    attack = PGD(THREAT, num_steps=1)
    images, labels = digits.images, digits.labels
    with pytest.raises(ValueError, match=r"normalisation belongs inside the view"):
        attack(digits.view, images * 255, labels, key=KEY)
    with pytest.raises(ValueError, match="to be floating"):
        attack(digits.view, jnp.zeros((16, 8, 8, 1), jnp.uint8), labels, key=KEY)
    for dtype in ("float16", "bfloat16"):  # SPSA, for one, would not move a pixel
        with pytest.raises(ValueError, match=rf"images\.dtype={dtype} to be float32"):
            attack(digits.view, images.astype(dtype), labels, key=KEY)
    with pytest.raises(ValueError, match=r"Expected labels in \[0, 10\)"):
        attack(digits.view, images, labels + 10, key=KEY)
    with pytest.raises(ValueError, match=r"labels.shape=\(3,\) to be \(16,\)"):
        attack(digits.view, images, labels[:3], key=KEY)
    with pytest.raises(ValueError, match="to be integer"):
        attack(digits.view, images, labels.astype(jnp.float32), key=KEY)
    with pytest.raises(ValueError, match="found probabilities"):
        attack(lambda x, key: jax.nn.softmax(digits.view(x, key=key)), images, labels, key=KEY)
    with pytest.raises(ValueError, match="finite logits"):
        attack(lambda x, key: digits.view(x, key=key) * jnp.inf, images, labels, key=KEY)
    with pytest.raises(ValueError, match="the view's shape"):
        attack(lambda x, key: digits.view(x, key=key)[:, 0], images, labels, key=KEY)
    with pytest.raises(ValueError, match="to have two classes at least"):
        attack(lambda x, key: digits.view(x, key=key)[:, :1], images, 0 * labels, key=KEY)
    with pytest.raises(ValueError, match="the view's dtype=int32 to be floating: logits, not"):
        attack(lambda x, key: digits.view(x, key=key).astype(int), images, labels, key=KEY)


def test_whatever_takes_a_batch_checks_it(digits):
    """Not a call alone: who asks for a trajectory or for starts, or hands in a whole dataset."""
    images, labels, fgsm = digits.images, digits.labels, FGSM(THREAT)
    suite = AutoAttack(THREAT, version="custom", attacks=(APGD(THREAT, num_steps=1),))
    over = {"key": KEY, "batch_size": 8, "progress": False}
    for ask in (
        lambda x, y: attacks.trajectory(fgsm, digits.view, x, y, key=KEY),
        lambda x, y: Boundary(num_steps=1).started(digits.view, x, y, key=KEY),
        lambda x, y: attacks.over_dataset(fgsm, digits.view, x, y, **over),
        lambda x, y: suite.report(digits.view, x, y, key=KEY),
    ):
        with pytest.raises(ValueError, match=r"Expected labels in \[0, 10\)"):
            ask(images, labels - 10)
        with pytest.raises(ValueError, match=r"Expected images in bounds=\(0.0, 1.0\)"):
            ask(2 * images - 1, labels)
        with pytest.raises(ValueError, match=r"labels.shape=\(8,\) to be \(16,\)"):
            ask(images, labels[:8])
    for pool in (2 * images - 1, images.at[0].set(jnp.nan)):
        with pytest.raises(ValueError, match=r"Expected starts in bounds=\(0.0, 1.0\)"):
            Boundary(num_steps=1)(digits.view, images, labels, key=KEY, starts=pool)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"threat": 0.1}, "Expected threat=0.1 to be a ThreatModel."),
        ({"num_steps": 2.0}, "Expected num_steps=2.0 to be an integer."),
        ({"num_restarts": 0}, "Expected num_restarts=0 >= 1."),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_fields_of_other_types(fields, message):
    with pytest.raises(ValueError) as error:
        dataclasses.replace(PGD(THREAT), **fields)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eps": "8/255"}, "Expected eps='8/255' to be a number."),
        ({"eps": jnp.float32(0.1)}, "to be a number"),  # no key of a compiled program
        ({"bounds": [0, 1]}, "Expected bounds=[0, 1] to be (low, high)"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_balls_of_other_types(fields, message):
    with pytest.raises(ValueError) as error:
        dataclasses.replace(THREAT, **fields)
    assert message in str(error.value)
    assert dataclasses.replace(THREAT, eps=np.float32(0.1)) == ThreatModel(
        "linf", float(np.float32(0.1))
    )


def test_height_and_width_are_asked_for():
    with pytest.raises(ValueError, match=r"to be \[b h w k\]"):
        Square(THREAT)(
            attacks.as_view(lambda x: x), jnp.ones((2, 3)), jnp.zeros(2, jnp.int32), key=KEY
        )
