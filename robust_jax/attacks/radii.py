"""One attack in balls of several radii: what has fallen in one is not attacked in the next."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike

from robust_jax.attacks.base import perturbed
from robust_jax.attacks.bounded import BoundedAttack
from robust_jax.attacks.dataset import Batches
from robust_jax.attacks.passes import Passes, counted, marked
from robust_jax.attacks.runs import Given
from robust_jax.attacks.standing import add_passes, judge
from robust_jax.attacks.suite import SuiteAttack
from robust_jax.runtime.live import compiled, held
from robust_jax.types import Images, KeyArray, View


class Radii(NamedTuple):
    """What an attack finds in balls of several radii.

    Attributes:
        eps: the radii, rising.
        images: in each ball the adversarial image of each example; of one that has fallen in a
            smaller ball that image, of one that is wrong as it is the clean image.
        standing: which examples stand in each ball: never more than in a smaller one. Their share
            is the robust accuracy.
        passes: in each ball of each example; none where it has fallen before.

    Example:
        >>> from robust_jax.attacks import Radii
        >>> standing = np.asarray([[True, True], [True, False]])  # two radii, two images
        >>> images = np.zeros((2, 2, 3))
        >>> found = Radii(np.asarray([0.1, 0.2]), images, standing, passes=())
        >>> dict(zip(found.eps.tolist(), found.standing.mean(1).tolist()))  # robust accuracy
        {0.1: 1.0, 0.2: 0.5}
    """

    eps: Float[np.ndarray, " r"]
    images: Float[np.ndarray, "r b ..."]
    standing: Bool[np.ndarray, "r b"]
    passes: tuple[Passes, ...]


def check_rising(eps: Sequence[float]) -> None:
    """Raises ValueError unless there are radii, each larger than the one before."""
    if not eps or any(low >= high for low, high in itertools.pairwise(eps)):
        raise ValueError(f"Expected eps={tuple(eps)} to be radii that rise.")


def over_radii(
    attack: BoundedAttack,
    view: View,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: Sequence[float],
    key: KeyArray,
    index: ArrayLike | None = None,
    batch_size: int = 128,
) -> Radii:
    """Returns what an attack finds in balls of several radii, one after the other.

    In each ball the examples are attacked that stand in the smaller ones, by the draws of the same
    key: what is compiled for the first serves all (of at most two batch sizes; in L0 the radius is
    a part of the program). So no more stand in any ball than under the attack alone, and the number
    never rises. A step size that is given is kept, one that is None follows the radius. Of a random
    view one draw decides, of the clean images too.

    Runs begin where they do alone. To begin at the points of the smaller ball changed no verdict:
    APGD-CE of 50 steps leaves 112, 97, 70 and 23 of 128 images of the public ResNet-20 at .1, .25,
    .5 and 1 / 255, from random points, from those of the smaller ball, and from these scaled.

    Args:
        attack: the attack, whose own radius does not matter.
        view: the model under attack, see `View`.
        images: clean images [b ...]; where they are split over devices, so is every batch.
        labels: class of each image [b]; of a targeted attack the class to reach.
        eps: the radii, rising.
        key: root of all draws.
        index: dataset row of each image; default 0, 1, ...
        batch_size: largest number of examples at a time; a suite has its own.

    Raises:
        ValueError: the radii do not rise, or what the attack raises.

    Example:
        >>> from robust_jax.attacks import FGSM, ThreatModel, as_view, over_radii
        >>> view = as_view(lambda images: images)  # two pixels, two classes
        >>> images, labels = jnp.asarray([[0.5, 0.6], [0.5, 0.9]]), jnp.asarray([1, 1])
        >>> attack, key = FGSM(ThreatModel("linf", 0.0)), jax.random.key(0)
        >>> over_radii(attack, view, images, labels, eps=[0.1, 0.3], key=key).standing.tolist()
        [[False, True], [False, False]]
    """
    check_rising(eps)
    attacks = [attack.with_eps(radius) for radius in eps]
    index = np.arange(np.shape(labels)[0]) if index is None else index
    batches = Batches(batch_size, images, labels, index, quarters=True)
    view, attacked = held(view), batches.images.copy()
    # Everything that a call refuses is refused before the first attack.
    for each in attacks:
        each.check(batches.images)
    standing = _standing_clean(attack, view, batches, key)
    found: list[np.ndarray] = []
    left: list[np.ndarray] = []
    costs: list[Passes] = []
    for each in attacks:
        cost = Passes(*(np.zeros(len(standing), np.int64) for _ in Passes._fields))
        for rows, points, stands in _in_ball(each, view, batches, standing, cost, key):
            attacked[rows], standing[rows] = points, stands
        found.append(attacked.copy())
        left.append(standing.copy())
        costs.append(cost)
    return Radii(np.asarray(eps, float), np.stack(found), np.stack(left), tuple(costs))


def _standing_clean(
    attack: BoundedAttack, view: View, batches: Batches, key: KeyArray
) -> Bool[np.ndarray, " b"]:
    """Returns which examples the view has right (of a targeted attack: not yet as its target)."""
    standing = np.zeros(len(batches), bool)
    for rows, (part, labels, index) in batches.of(np.arange(len(standing))):
        given = attack.prepared(view, part, labels, key=key, index=index)
        fallen = _fallen(attack, given)
        standing[rows] = ~np.asarray(fallen)[: len(rows)]
    return standing


def _in_ball(
    attack: BoundedAttack,
    view: View,
    batches: Batches,
    standing: Bool[np.ndarray, " b"],
    passes: Passes,
    key: KeyArray,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields rows, their adversarial images, and which of them stand, of what stood before."""
    before = np.flatnonzero(standing)
    if isinstance(attack, SuiteAttack):
        if len(before):
            images, labels, index = (
                each[before] for each in (batches.images, batches.labels, batches.index)
            )
            report = attack.report(view, images, labels, key=key, index=index)
            add_passes(passes, before, report.passes)
            yield before, report.images, report.standing
        return
    for rows, (part, labels, index) in batches.of(before):
        given = Given(view, part, labels, key, index)
        (points, fallen), cost = _attacked(attack, given)
        add_passes(passes, rows, cost)
        yield rows, np.asarray(points)[: len(rows)], ~np.asarray(fallen)[: len(rows)]


def _judged(
    attack: BoundedAttack, points: Images, given: Given
) -> tuple[Images, Bool[Array, " b"]]:
    points, wrong = judge(attack, points, 0, given)
    return points, wrong != attack.targeted


@compiled
def _fallen(attack: BoundedAttack, given: Given) -> Bool[Array, " b"]:
    return _judged(attack, given.images, given)[1]


@compiled
def _attacked(
    attack: BoundedAttack, given: Given
) -> tuple[tuple[Images, Bool[Array, " b"]], Passes]:
    def attacked(attack: BoundedAttack, given: Given) -> tuple[Images, Bool[Array, " b"]]:
        return _judged(attack, perturbed(attack, given), given)

    given = given._replace(view=marked(given.view))
    return counted(attacked, given.images)(attack, given)
