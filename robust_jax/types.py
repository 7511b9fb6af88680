"""The records that data, models, methods and evaluation hand to one another.

Axis letters, here and everywhere: b batch, m members, c classes, h w height and width,
k channels, f features, s draws.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int, Key, PyTree

Variables = Mapping[str, PyTree]
"""Nested dict of a network's arrays, by collection: {'params', 'batch_stats', 'constants', ...}."""

Images = Float[Array, "b *shape"]
Labels = Int[Array, " b"]
Index = Int[Array, " b"]
Starts = Float[Array, "n *shape"]
KeyArray = Key[Array, ""]
"""The arguments of attacks: `Index` is the row of each example in its dataset, `Starts` images that
an example may begin at."""

SplitName = Literal["test", "validation", "train"]

Budget = Literal["full", "reduced"]
"""Of an evaluation: as its protocol says, or a look at few images that is compared with nothing."""


class Batch(NamedTuple):
    """A batch of examples.

    Attributes:
        image: pixels in [0, 1], height x width x channel.
        label: class of each image.
        mask: False for padding rows (evaluation only; training batches are never padded).
        index: row of each example in its dataset split.
    """

    image: Float[Array, "b h w k"]
    label: Int[Array, " b"]
    mask: Bool[Array, " b"]
    index: Int[Array, " b"]  # pyright: ignore[reportIncompatibleMethodOverride] (a tuple's own)


class Outputs(NamedTuple):
    """What one forward pass of a network gives.

    Attributes:
        logits: class scores before softmax (of an ensemble: the mean of its members' logits).
        member_logits: class scores of each member; one member for a single network.
        features: pooled features of each member, what the head acts on.
        taps: raw convolution and linear outputs and pre-activations by name; names sort in
            network order. Unused ones cost nothing under jit.
    """

    logits: Float[Array, "b c"]
    member_logits: Float[Array, "m b c"]
    features: Float[Array, "m b f"]
    taps: dict[str, Array]


class Task(NamedTuple):
    """What a method must know of a dataset to build its network.

    Attributes:
        input_shape: height, width and channels of an image.
        num_classes: number of classes.
        num_train: number of training examples (after the validation split is carved out).
    """

    input_shape: tuple[int, int, int]
    num_classes: int
    num_train: int


@runtime_checkable
class View(Protocol):
    """Returns logits of images: what the adversary may see and differentiate.

    Logits are [b c]. A view may also return [s b c], s draws of a random model: attacks then
    average the loss over the draws and decide by the mean probabilities (see `attacks.eot`).
    """

    def __call__(self, images: Array, /, *, key: Key[Array, ""]) -> Array: ...


@runtime_checkable
class MethodView(Protocol):
    """Returns what an adversary may see of images and differentiate, an array.

    Logits are [b c], of the view `members` [m b c]. A `View` is one of these at given variables
    (`attacks.bind`).
    """

    def __call__(
        self, variables: Variables, images: Array, /, *, key: Key[Array, ""] | None
    ) -> Array: ...


@runtime_checkable
class MethodTaps(Protocol):
    """Returns the activations of images, by layer: under the randomness of the deployed model."""

    def __call__(
        self, variables: Variables, images: Array, /, *, key: Key[Array, ""] | None
    ) -> dict[str, Array]: ...
