"""BatchEnsemble: members that share every weight but two vectors a layer.

Wen, Tran and Ba, "BatchEnsemble: an alternative approach to efficient ensemble and lifelong
learning", ICLR 2020.

Member i of a layer has the weights W o (s_i r_i^T), so its output is ((x o s_i) * W) o r_i
(equations 1 to 5, whose r and s are the other way round), one convolution for all members. The KAP
paper compares with it on WRN-16-4.

Where paper and code (edward2's CIFAR baseline) leave a choice, the first named is the default:

* s and r start as random signs (paper), or normal with mean 1 and this standard deviation
  (`factor_std`; .5 in the code: its "random sign init" of -0.5);
* BatchNorm is shared by the members, its statistics are those of all of them (code);
* every member is trained on the whole batch; the loss is the mean of the members' (code).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.tree_util import KeyPath
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from robust_jax import checks
from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.cross_entropy import CrossEntropy
from robust_jax.methods.network import forward_fn, network_method
from robust_jax.methods.runs import Asked, Members, Runs
from robust_jax.methods.terms import Term
from robust_jax.models import Classifier, Conv, Dense, default_layers
from robust_jax.models.ensemble import check_single
from robust_jax.types import Outputs, Task, Variables


def _factors(layer: "RankOneConv | RankOneDense", size: int) -> tuple[Array, Array]:
    """Returns s [m k] and r [m features] of a layer of k inputs, inside its compact method."""

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, "m k"]:
        if layer.factor_std is None:
            return jax.random.rademacher(key, shape, dtype)
        return 1 + layer.factor_std * jax.random.normal(key, shape, dtype)

    s = layer.param("s", init, (layer.num_members, size), jnp.float32)
    return s, layer.param("r", init, (layer.num_members, layer.features), jnp.float32)


def _scale(x: Float[Array, "bm *k"], factors: Float[Array, "m k"]) -> Float[Array, "bm *k"]:
    """Returns x, whose rows are example by example the members, times each member's factors."""
    if len(factors) == 1:  # a number for each channel, which bounds of convolutions take in
        return x * factors.reshape(*(1,) * (x.ndim - 1), -1).astype(x.dtype)
    members = x.reshape(-1, len(factors), *x.shape[1:])
    wide = factors.reshape(1, len(factors), *(1,) * (x.ndim - 2), -1)
    return (members * wide.astype(x.dtype)).reshape(x.shape)


class RankOneConv(Conv):
    """Convolution with s per member and input channel, r per member and output channel."""

    num_members: int = 1
    factor_std: float | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "bm h w k"], *, train: bool, deterministic: bool
    ) -> Float[Array, "bm out_h out_w features"]:
        """Returns the members' convolutions."""
        del train, deterministic
        s, r = _factors(self, x.shape[-1])
        kernel, bias = self.weights(x.shape[-1])
        y = _scale(self.convolve(_scale(x, s), kernel, None), r)
        return y if bias is None else y + bias.astype(x.dtype)[None, None, None, :]


class RankOneDense(Dense):
    """Linear layer with s per member and input, r per member and output."""

    use_bias: bool = False
    """The bias is added after r, here and not by `Dense`."""
    num_members: int = 1
    factor_std: float | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "bm k"], *, train: bool, deterministic: bool
    ) -> Float[Array, "bm features"]:
        """Returns the members' linear maps."""
        s, r = _factors(self, x.shape[-1])
        y = super().__call__(_scale(x, s), train=train, deterministic=deterministic)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return _scale(y, r) + bias.astype(x.dtype)[None, :]


class RankOneClassifier(Classifier):
    """Normalisation, then a backbone that is given every example once for each member."""

    num_members: int = 1

    def __call__(
        self, images: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> Outputs:
        """Returns the members' outputs; `logits` is the mean of their logits."""
        # Row b * m + i is member i of example b, so a device keeps its own examples.
        rows = images if self.num_members == 1 else jnp.repeat(images, self.num_members, axis=0)
        outputs = super().__call__(rows, train=train, deterministic=deterministic)

        def by_member(rows: Array) -> Array:
            return jnp.swapaxes(rows.reshape(-1, self.num_members, *rows.shape[1:]), 0, 1)

        logits = by_member(outputs.logits)
        taps = jax.tree.map(by_member, outputs.taps)
        return Outputs(jnp.mean(logits, 0), logits, by_member(outputs.features[0]), taps)


@dataclasses.dataclass(frozen=True)
class BatchEnsemble(MethodConfig):
    """Members that share every convolution and linear layer up to rank-one factors.

    Member i of a layer has the weights `W o (s_i r_i^T)`, its output is `((x o s_i) * W) o r_i`.

    Views: those of a plain ensemble. `deployed` and `noise_off` are the logits of the vote,
    `members` the members' logits [m b c], `train` the vote with batch statistics.

    Attributes:
        num_members: m.
        factor_std: s and r start as random signs (None), or normal with mean 1 and this std.

    Fields beside these are those of `MethodConfig`.

    Raises:
        ValueError: no member, a network that is an ensemble already, or changes of its layers.

    References:
        Wen, Tran and Ba, "BatchEnsemble: an alternative approach to efficient ensemble and lifelong
        learning", ICLR 2020.

    Example:
        >>> from robust_jax.methods import BatchEnsemble
        >>> from robust_jax.models import CNNConfig
        >>> from robust_jax.types import Task
        >>> network = CNNConfig(widths=(16,), strides=(2,))
        >>> method = BatchEnsemble(network, num_members=4).make(Task((8, 8, 1), 10, 1000))
        >>> shapes = jax.eval_shape(lambda key: method.init(key=key), jax.random.key(0))
        >>> conv = shapes["params"]["backbone"]["conv1"]
        >>> {name: conv[name].shape for name in ("kernel", "s", "r")}
        {'kernel': (3, 3, 1, 16), 's': (4, 1), 'r': (4, 16)}
    """

    num_members: int = 4
    factor_std: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 1, "num_members")
        checks.at_least(self, 0, "factor_std")
        check_single(self.network)
        if self.changes:
            raise ValueError("Expected changes=() of BatchEnsemble, whose layers are its own.")

    @property
    def own_terms(self) -> tuple[Term, ...]:
        """Returns the members' mean cross-entropy."""
        return (CrossEntropy("mean"),)

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset."""
        network, alone = (self._around(task, n) for n in (self.num_members, 1))
        of_one = forward_fn(alone)

        def run(variables, images, labels, *, key, asked: Asked) -> Members:
            del labels, asked
            return Members(*whole(variables, images, key=key, train=True, deterministic=False))

        def whole(variables, images, **mode):
            outputs, moved = forward_fn(network)(variables, images, **mode)
            return outputs.member_logits, moved

        def member(variables, images, number, /, *, key=None):
            one, mode = _of_one(variables, number), {"train": False, "deterministic": True}
            return of_one(one, images, key=key, **mode)[0].member_logits[0]

        runs = Runs(run, gradients=False, quantities=False)
        return network_method(network, self, task, runs=runs, alone=member)

    def _around(self, task: Task, num_members: int) -> RankOneClassifier:
        """Returns the network with so many members."""
        fields = {"num_members": num_members, "factor_std": self.factor_std}
        layers = default_layers()._replace(
            conv=functools.partial(RankOneConv, **fields),
            dense=functools.partial(RankOneDense, **fields),
        )
        plain = self.classifier(task, layers)
        return RankOneClassifier(
            plain.backbone, self.normalization, self.dtype, num_members=num_members
        )


def _of_one(variables: Variables, number: Int[Array, ""] | int) -> Variables:
    """Returns the variables of a network that has one of the members; the number may be traced."""

    def factors(path: KeyPath, leaf: Array) -> Array:
        return lax.dynamic_slice_in_dim(leaf, number, 1) if path[-1].key in ("s", "r") else leaf

    params = jax.tree_util.tree_map_with_path(factors, variables["params"])
    return {**variables, "params": params}
