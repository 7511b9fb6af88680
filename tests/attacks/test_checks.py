"""What is checked of every call."""

import jax
import jax.numpy as jnp
import pytest

from robust_jax import attacks
from robust_jax.attacks import PGD, Square, ThreatModel

KEY = jax.random.key(1)


def test_images_and_labels_are_checked(digits):
    attack = PGD(ThreatModel("linf", 0.1), num_steps=1)
    images, labels = digits.images, digits.labels
    with pytest.raises(ValueError, match=r"normalisation belongs inside the view"):
        attack(digits.view, images * 255, labels, key=KEY)
    with pytest.raises(ValueError, match="to be floating"):
        attack(digits.view, jnp.zeros((16, 8, 8, 1), jnp.uint8), labels, key=KEY)
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


def test_height_and_width_are_asked_for():
    with pytest.raises(ValueError, match=r"to be \[b h w k\]"):
        Square(ThreatModel("linf", 0.1))(
            attacks.as_view(lambda x: x), jnp.ones((2, 3)), jnp.zeros(2, jnp.int32), key=KEY
        )
