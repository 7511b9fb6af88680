"""Images, labels and scores that nothing can be certified of: one line, and no certificate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.certify import (
    Certificate,
    Margins,
    Smoothing,
    average_certified_radius,
    certified_accuracy,
    crown_margins,
    interval_bounds,
)

KEY = jax.random.key(1)
# By NumPy: JAX would compile while tests are collected.
IMAGES = jnp.asarray(np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3))
WEIGHTS = jnp.asarray(np.asarray([[1, -1], [0.5, 0], [0, 2]], np.float32))
LABELS = np.argmax(np.asarray(IMAGES) @ np.asarray(WEIGHTS), axis=1)


def logits(images):
    return images @ WEIGHTS


BOUNDS = {
    "crown_margins": lambda f, x, y: crown_margins(f, x, y, 0.01),
    "crown": lambda f, x, y: Margins(0.01)(f, x, y),
    "interval": lambda f, x, y: Margins(0.01, bound="interval")(f, x, y),
}


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize(
    ("function", "images", "labels", "message"),
    [
        (logits, IMAGES, LABELS + 1, r"Expected labels in \[0, 2\), found \[1, 2\]"),
        (logits, IMAGES, LABELS - 1, r"Expected labels in \[0, 2\), found \[-1, 0\]"),
        (logits, IMAGES, LABELS.astype(np.float32), "labels.dtype=float32 to be integer"),
        (logits, IMAGES, LABELS[:, None], r"labels.shape=\(4, 1\) to be \(4,\)"),
        (logits, IMAGES * 255, LABELS, r"Expected images in bounds=\(0.0, 1.0\)"),
        (logits, IMAGES * jnp.nan, LABELS, r"Expected images in bounds=\(0.0, 1.0\)"),
        (lambda x: logits(x)[:, :1], IMAGES, 0 * LABELS, "to have two classes at least"),
    ],
)
def test_bounds(name, function, images, labels, message):
    with pytest.raises(ValueError, match=message):
        BOUNDS[name](function, images, labels)


def test_no_images():
    """Also of a function that cannot be called on none."""

    def flat(images):
        return logits(images.reshape(len(images), -1))

    assert crown_margins(flat, IMAGES[:0], LABELS[:0], 0.01).shape == (0, 2)
    for bound in ("crown", "interval"):
        found = Margins(0.01, bound=bound)(flat, IMAGES[:0], LABELS[:0])
        assert [len(each) for each in found[:3]] == [0, 0, 0]
        assert found.num_votes is None


@pytest.mark.usefixtures("without_type_checks")
def test_scores_are_one_array():
    for wrapped in (lambda x: (logits(x),), lambda x: {"logits": logits(x)}):
        with pytest.raises(ValueError, match="to be one array of scores"):
            crown_margins(wrapped, IMAGES, LABELS, 0.01)
        with pytest.raises(ValueError, match="to be one array of scores"):
            Smoothing(0.1)(lambda x, *, key, f=wrapped: f(x), IMAGES, key=KEY)


@pytest.mark.slow
def test_labels_of_a_dtype_without_minus_one():
    """Who abstains has -1."""
    found = Margins(0.3)(logits, IMAGES, LABELS.astype(np.uint8))
    expected = Margins(0.3)(logits, IMAGES, LABELS)
    assert -1 in expected.label.tolist()
    assert found.label.tolist() == expected.label.tolist()


def test_bounds_that_cross():
    with pytest.raises(ValueError, match="Expected lower <= upper, found more at 12 places"):
        interval_bounds(logits, IMAGES + 0.1, IMAGES - 0.1)


@pytest.mark.usefixtures("without_type_checks")
def test_smoothing():
    def predict(images, *, key):
        del key
        return logits(images)

    broken = IMAGES.at[2].set(jnp.nan)
    smoothing = Smoothing(0.1, num_selection=2, num_samples=4)
    with pytest.raises(ValueError, match="found NaN in 2 draws of image 7"):
        smoothing(predict, broken, key=KEY, index=[5, 6, 7, 8])
    # Any other word would let rows of a call share a draw.
    with pytest.raises(ValueError, match="Expected draws_per='rows' to be 'row' or 'call'"):
        smoothing(predict, IMAGES, key=KEY, draws_per="rows")
    with pytest.raises(ValueError, match=r"index\.dtype=float64 to be integer"):
        smoothing(predict, IMAGES, key=KEY, index=[0.5, 1, 2, 3])
    for made in (lambda: Smoothing(0.1, num_samples=1e3), lambda: Margins(0.1, bound="ibp")):
        with pytest.raises(ValueError, match=r"num_samples=1000.0 to be an integer|bound='ibp'"):
            made()


@pytest.mark.usefixtures("without_type_checks")
def test_an_image_without_a_certificate_is_right_of_nothing():
    abstained = Certificate(np.asarray([-1, 1]), np.asarray([0.0, 0.5]))
    assert certified_accuracy(abstained, [-1, 1], [0.0]).tolist() == [0.5]
    assert average_certified_radius(abstained, [-1, 1]) == 0.25
    with pytest.raises(ValueError, match=r"Expected radii=\[nan\] >= 0"):
        certified_accuracy(abstained, [-1, 1], [float("nan")])
