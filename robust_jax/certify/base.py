"""What a certificate is, and the two numbers that the literature makes of many."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Certificate(NamedTuple):
    """Labels that hold in a ball around each image, made on the host.

    Attributes:
        label: certified class of each image; -1 where the certifier abstains.
        radius: of the ball, in pixel units; 0 where it abstains.
        margin: lower bound of the smallest margin (logits) in the ball; None where the certifier
            has no margins.
    """

    label: Int[np.ndarray, " b"]
    radius: Float[np.ndarray, " b"]
    margin: Float[np.ndarray, " b"] | None = None

    def only(self, holds: Bool[np.ndarray, " b"]) -> "Certificate":
        """Returns the certificate, with the images left out that it does not hold of."""
        label, radius = np.where(holds, self.label, -1), np.where(holds, self.radius, 0.0)
        return Certificate(label.astype(np.int32), radius, self.margin)


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
    """
    right = _right(certificate, labels)
    if not all(radius >= 0 for radius in radii):
        raise ValueError(f"Expected radii={radii} >= 0.")
    reaches = certificate.radius[None, :] >= np.asarray(radii, np.float64)[:, None]
    return np.mean(right[None, :] & reaches, axis=1)


def average_certified_radius(certificate: Certificate, labels: Int[np.ndarray, " b"]) -> float:
    """Returns the mean radius over all images, 0 for those not certified as their own class.

    Args:
        certificate: of all images.
        labels: true classes.

    Raises:
        ValueError: there are no images, or not one label per image.

    References:
        Zhai et al., "MACER: Attack-free and scalable robust training via maximizing certified
        radius", 2020, section 5.
    """
    return float(np.mean(np.where(_right(certificate, labels), certificate.radius, 0.0)))


def _right(certificate: Certificate, labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != certificate.label.shape or not labels.size:
        raise ValueError(
            f"Expected labels.shape={labels.shape} to be {certificate.label.shape}, one per "
            "image, and not empty."
        )
    return (certificate.label == labels) & (certificate.label >= 0)
