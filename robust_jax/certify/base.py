"""What a certificate is, and the two numbers that the literature makes of many, with intervals."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from robust_jax import metrics


class Certificate(NamedTuple):
    """Labels that hold in a ball around each image, made on the host.

    Attributes:
        label: certified class of each image; -1 where the certifier abstains.
        radius: of the ball, in pixel units; 0 where it abstains.
        margin: lower bound of the smallest margin (logits) in the ball; None where the certifier
            has no margins.
        num_votes: by which each image was tested; None where the certifier does not vote.

    Example:
        >>> from robust_jax.certify import Certificate
        >>> found = Certificate(np.asarray([3, -1]), np.asarray([0.5, 0.0]))
        >>> (found.label >= 0).mean()  # the share of images that it does not abstain on
        np.float64(0.5)
    """

    label: Int[np.ndarray, " b"]
    radius: Float[np.ndarray, " b"]
    margin: Float[np.ndarray, " b"] | None = None
    num_votes: Int[np.ndarray, " b"] | None = None

    def only(self, holds: Bool[np.ndarray, " b"]) -> "Certificate":
        """Returns the certificate, with the images left out that it does not hold of."""
        label, radius = np.where(holds, self.label, -1), np.where(holds, self.radius, 0.0)
        return self._replace(label=label.astype(np.int32), radius=radius)


def certified_accuracy(
    certificate: Certificate, labels: Int[np.ndarray, " b"], radii: Sequence[float]
) -> Float[np.ndarray, " r"]:
    """Returns, for each of the radii, the share of images certified as their own class that far.

    Args:
        certificate: of all images.
        labels: true classes.
        radii: radii to count at; an image counts where its own is at least that.

    Raises:
        ValueError: there are no images, not one label per image, or a radius is negative.

    Example:
        >>> from robust_jax.certify import Certificate, certified_accuracy
        >>> found = Certificate(np.asarray([3, 3, 1, -1]), np.asarray([0.5, 0.2, 0.4, 0.0]))
        >>> certified_accuracy(found, np.full(4, 3), [0.0, 0.3]).tolist()
        [0.5, 0.25]
    """
    return np.mean(_reaching(certificate, labels, radii), axis=1)


def certified_accuracy_interval(
    certificate: Certificate,
    labels: Int[np.ndarray, " b"],
    radii: Sequence[float],
    level: float = 0.95,
) -> Float[np.ndarray, "r 2"]:
    """Returns the Wilson interval of `certified_accuracy` at each of the radii, its ends in turn.

    It is of images as of a sample of all: of what this certifier finds on such images. That a
    certificate may be wrong with probability alpha stands beside it. Each holds by itself; the
    curve lies in all of them at once less often.

    Args:
        certificate: of all images.
        labels: true classes.
        radii: radii to count at.
        level: probability with which the interval of a radius covers the share of all images.

    Raises:
        ValueError: as `certified_accuracy`.

    Example:
        >>> from robust_jax.certify import Certificate, certified_accuracy_interval
        >>> found = Certificate(np.asarray([3, 3, 1, -1]), np.asarray([0.5, 0.2, 0.4, 0.0]))
        >>> certified_accuracy_interval(found, np.full(4, 3), [0.0, 0.3]).round(2).tolist()
        [[0.15, 0.85], [0.05, 0.7]]

    References:
        Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    reaching = _reaching(certificate, labels, radii)
    bounds = [metrics.interval(int(np.sum(each)), len(each), level) for each in reaching]
    return np.asarray(bounds, np.float64).reshape(-1, 2)


def average_certified_radius(certificate: Certificate, labels: Int[np.ndarray, " b"]) -> float:
    """Returns the mean radius over all images, 0 for those not certified as their own class.

    Args:
        certificate: of all images.
        labels: true classes.

    Raises:
        ValueError: there are no images, or not one label per image.

    Example:
        >>> from robust_jax.certify import Certificate, average_certified_radius
        >>> found = Certificate(np.asarray([3, 3, 1, -1]), np.asarray([0.5, 0.2, 0.4, 0.0]))
        >>> round(average_certified_radius(found, np.full(4, 3)), 3)
        0.175

    References:
        Zhai et al., "MACER: Attack-free and scalable robust training via maximizing certified
        radius", 2020, section 5.
    """
    return float(np.mean(_own_radius(certificate, labels)))


def average_certified_radius_interval(
    certificate: Certificate, labels: Int[np.ndarray, " b"], level: float = 0.95
) -> tuple[float, float]:
    """Returns Student's interval of `average_certified_radius`, which does not begin below 0.

    The mean of some hundred images is close to normal; of a few, or of many of which next to none
    is certified, it is not, and the interval is too narrow. Where all radii are the same, it has no
    width.

    Args:
        certificate: of all images.
        labels: true classes.
        level: probability with which it covers the mean radius of all such images.

    Raises:
        ValueError: as `average_certified_radius`, or there is one image alone.

    Example:
        >>> from robust_jax.certify import Certificate, average_certified_radius_interval
        >>> found = Certificate(np.full(4, 3), np.asarray([0.5, 0.2, 0.4, 0.3]))
        >>> [round(end, 2) for end in average_certified_radius_interval(found, np.full(4, 3))]
        [0.14, 0.56]

    References:
        "Student" (Gosset), "The probable error of a mean", 1908.
    """
    radius = _own_radius(certificate, labels)
    if len(radius) < 2:
        raise ValueError(f"Expected images={len(radius)} >= 2 for an interval of their mean.")
    from scipy import stats  # a second of the import of this package

    reach = stats.t.ppf((1 + level) / 2, len(radius) - 1) * stats.sem(radius)
    mean = np.mean(radius)
    return float(max(mean - reach, 0.0)), float(mean + reach)


def _own_radius(certificate: Certificate, labels: np.ndarray) -> Float[np.ndarray, " b"]:
    """Returns the radius in which each image is certified as its own class, or 0."""
    return np.where(_right(certificate, labels), certificate.radius, 0.0)


def _reaching(
    certificate: Certificate, labels: np.ndarray, radii: Sequence[float]
) -> Bool[np.ndarray, "r b"]:
    """Returns whether each image is certified as its own class at each of the radii."""
    right = _right(certificate, labels)
    if not all(radius >= 0 for radius in radii):
        raise ValueError(f"Expected radii={radii} >= 0.")
    reaches = certificate.radius[None, :] >= np.asarray(radii, np.float64)[:, None]
    return right[None, :] & reaches


def _right(certificate: Certificate, labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != certificate.label.shape or not labels.size:
        raise ValueError(
            f"Expected labels.shape={labels.shape} to be {certificate.label.shape}, one per "
            "image, and not empty."
        )
    return (certificate.label == labels) & (certificate.label >= 0)
