"""FMN and DDN: exact on a linear model in every norm, the steps by a plain loop, what they cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import DDN, FMN, as_view
from robust_jax.attacks.threat import distance

KEY = jax.random.key(19)


@pytest.mark.parametrize(
    ("attack", "slack"),
    [
        (FMN(), 0.005),
        pytest.param(FMN(distance_norm="linf"), 0.005, marks=pytest.mark.slow),
        pytest.param(FMN(distance_norm="l1"), 0.005, marks=pytest.mark.slow),
        # The radius ends within its last share of the boundary, which stays 5 %.
        pytest.param(DDN(), 0.05, marks=pytest.mark.slow),
    ],
    ids=["l2", "linf", "l1", "ddn"],
)
def test_nearest_on_a_linear_model(attack, slack, assert_exact):
    assert_exact(attack, attack.norm, slack)


def test_fewest_values_on_a_linear_model(linear, fewest):
    found = FMN(distance_norm="l0_values")(*linear, key=KEY)
    assert bool(jnp.all(jnp.argmax(linear.view(found, key=None), axis=1) != linear.labels))
    np.testing.assert_array_equal(distance("l0_values", found, linear.images), fewest)


@pytest.mark.parametrize("norm", ["l2", pytest.param("l1", marks=pytest.mark.slow)])
def test_a_boundary_behind_the_box_is_found(norm):
    """At the nearest point of the linearised boundary the box ends, and the class stands."""
    weights, bias = jnp.asarray([[1.0, 0.0], [0.5, 0.0]]), jnp.asarray([[0.0, 0.1]])
    view = as_view(lambda images: images.reshape(-1, 2) @ weights + bias)
    images = jnp.full((1, 1, 2, 1), 0.5)
    found = FMN(distance_norm=norm)(view, images, jnp.zeros(1, int), key=KEY)
    np.testing.assert_allclose(found.ravel(), [0.0, 0.2], atol=5e-3)


def in_ball(norm, delta, radius):
    """The nearest point of a ball, by sorting; of one image."""
    size = np.abs(delta)
    if norm == "linf":
        return np.clip(delta, -radius, radius)
    if norm == "l2":
        return delta * min(1, radius / np.linalg.norm(delta))
    if norm == "l0_values":
        return np.where(size >= np.sort(size.ravel())[-int(max(radius, 1))], delta, 0)
    if size.sum() <= radius:
        return delta
    ordered = np.sort(size.ravel())[::-1]
    excess = (np.cumsum(ordered) - radius) / np.arange(1, size.size + 1)
    return np.sign(delta) * np.maximum(size - excess[np.sum(ordered > excess) - 1], 0)


def plain_fmn(image, label, gradient_fn, norm, num_steps):
    """FMN as the paper says it, on one image."""
    order, dual = {"linf": (np.inf, 1), "l2": (2, 2), "l1": (1, np.inf), "l0_values": (0, 0)}[norm]
    farthest = np.linalg.norm(np.maximum(image, 1 - image).ravel(), order)
    delta, best, best_size = np.zeros_like(image), image, np.inf
    radius = 1 if order == 0 else 1e-6
    for number in range(num_steps):
        cosine = (1 + np.cos(np.pi * number / num_steps)) / 2
        length, share = 0.01 + 0.99 * cosine, 0.001 + 0.049 * cosine
        margin, gradient = gradient_fn(image + delta, label)
        size = np.linalg.norm(delta.ravel(), order)
        if margin > 0 and size < best_size:
            best, best_size = image + delta, size
        if order == 0:
            fewer, more = np.floor(radius * (1 - share)), np.floor(radius * (1 + share))
            fewer, more = min(radius - 1, fewer), max(radius + 1, more)
        else:
            fewer, more = radius * (1 - share), radius * (1 + share)
            if best_size == np.inf:
                more = max(more, size + abs(margin) / np.linalg.norm(gradient.ravel(), dual))
        radius = np.clip(min(fewer, best_size) if margin > 0 else more, 0, farthest)
        delta = delta + length * gradient / np.linalg.norm(gradient)
        delta = np.clip(image + in_ball(norm, delta, radius), 0, 1) - image
    return best


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0_values"])
def test_steps_by_a_plain_loop(norm, digits):
    @jax.jit
    def both(image, label):
        def margin(image):
            logits = digits.view(image[None], key=None)[0]
            others = jnp.where(jnp.arange(10) == label, -jnp.inf, logits)
            return jnp.max(others) - logits[label]

        return jax.value_and_grad(margin)(image)

    def gradient_fn(image, label):
        return [np.asarray(each, float) for each in both(jnp.float32(image), label)]

    found = FMN(distance_norm=norm, num_steps=12)(*digits, key=KEY)
    expected = [
        plain_fmn(np.asarray(image, float), int(label), gradient_fn, norm, 12)
        for image, label in zip(digits.images, digits.labels, strict=True)
    ]
    assert np.any(np.asarray(expected) != np.asarray(digits.images), axis=(1, 2, 3)).sum() > 8
    # A radius is decided on by each margin's sign, and here none is within rounding of zero.
    np.testing.assert_allclose(found, np.asarray(expected), atol=1e-4)


def test_each_step_costs_two_passes_and_what_is_wrong_already_stays(linear):
    labels = linear.labels.at[0].set(1 - linear.labels[0])
    found, passes = FMN(num_steps=7).counted(linear.view, linear.images, labels, key=KEY)
    assert passes.forward.tolist() == passes.backward.tolist() == 8 * [7]
    np.testing.assert_array_equal(found[0], linear.images[0])


def test_ddn_searches_where_the_gradient_is_zero_and_keeps_levels(linear):
    still = as_view(lambda images: jax.lax.stop_gradient(linear.view(images, key=None)))
    found = DDN(num_steps=100, levels=256)(still, linear.images, linear.labels, key=KEY)
    fooled = jnp.argmax(linear.view(found, key=None), axis=1) != linear.labels
    assert int(fooled.sum()) >= 6
    grey = found[fooled] * 255
    np.testing.assert_allclose(grey, jnp.round(grey), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("attack", [FMN, DDN])
def test_another_box_and_a_target(attack, linear):
    wide = lambda images, key: linear.view((images + 1) / 2, key=key)  # noqa: E731
    there = attack(bounds=(-1.0, 1.0), targeted=True)(
        wide, 2 * linear.images - 1, 1 - linear.labels, key=KEY
    )
    # The same steps in other units; the two boxes round otherwise.
    here = attack()(*linear, key=KEY)
    near, far = (
        distance("l2", a, b) for a, b in ((here, linear.images), ((there + 1) / 2, linear.images))
    )
    np.testing.assert_allclose(far, near, rtol=0.02)


def test_rejects():
    for attack, message in (
        (lambda: FMN(num_steps=0), "Expected num_steps=0 >= 1"),
        (lambda: FMN(change=1.0), r"Expected change=1.0 in \(0, 1\)"),
        (lambda: FMN(last_step_size=0.0), r"Expected last_step_size=0.0 > 0"),
        (lambda: DDN(levels=1), r"Expected levels=1 >= 2"),
        (lambda: DDN(first_radius=-1.0), r"Expected first_radius=-1.0 > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            attack()
