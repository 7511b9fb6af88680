"""BatchEnsemble: members that share every weight but two vectors a layer.

Wen, Tran and Ba, "BatchEnsemble: an alternative approach to efficient ensemble and lifelong
learning", ICLR 2020.

Member i of a layer has the weights W o (s_i r_i^T), so its output is ((x o s_i) * W) o r_i
(equations 1 to 5), one convolution for all members. The KAP paper compares with it on WRN-16-4.

Where paper and code (edward2's CIFAR baseline) leave a choice, the first named is the default:

* s and r start as random signs (paper), or normal with mean 1 and this standard deviation
  (`factor_std`; .5 in the code: its "random sign init" of -0.5);
* BatchNorm is shared by the members, its statistics are those of all of them (code);
* every member is trained on the whole batch; the loss is the mean of the members' (code).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from robust_jax import voting
from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.cross_entropy import CrossEntropy
from robust_jax.methods.network import classifier
from robust_jax.methods.objective import no_loss, with_objective
from robust_jax.methods.runs import Asked, Members, Runs
from robust_jax.methods.terms import Term
from robust_jax.models import Conv, Dense, EnsembleConfig, default_layers
from robust_jax.types import Task


def _factors(
    std: float | None,
) -> Callable[[Key[Array, ""], tuple[int, ...], DTypeLike], Float[Array, "m k"]]:
    """Returns what makes s and r: see `BatchEnsemble.factor_std`."""

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, "m k"]:
        if std is None:
            return jax.random.rademacher(key, shape, dtype)
        return 1 + std * jax.random.normal(key, shape, dtype)

    return init


def _scale(x: Float[Array, "bm *k"], factors: Float[Array, "m k"]) -> Float[Array, "bm *k"]:
    """Returns x, whose rows are example by example the members, times each member's factors."""
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
        init = _factors(self.factor_std)
        s = self.param("s", init, (self.num_members, x.shape[-1]), jnp.float32)
        r = self.param("r", init, (self.num_members, self.features), jnp.float32)
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
        init = _factors(self.factor_std)
        s = self.param("s", init, (self.num_members, x.shape[-1]), jnp.float32)
        r = self.param("r", init, (self.num_members, self.features), jnp.float32)
        y = super().__call__(_scale(x, s), train=train, deterministic=deterministic)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return _scale(y, r) + bias.astype(x.dtype)[None, :]


@dataclasses.dataclass(frozen=True)
class BatchEnsemble(MethodConfig):
    """Members that share every convolution and linear layer up to rank-one factors.

    Views: those of a plain ensemble. `deployed` and `noise_off` are the logits of the vote,
    `members` the members' logits [m b c], `train` the vote with batch statistics.

    Attributes:
        num_members: m.
        factor_std: s and r start as random signs (None), or normal with mean 1 and this std.
    """

    num_members: int = 4
    factor_std: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_members < 1:
            raise ValueError(f"Expected num_members={self.num_members} >= 1.")
        if self.factor_std is not None and self.factor_std < 0:
            raise ValueError(f"Expected factor_std={self.factor_std} >= 0.")
        if isinstance(self.network, EnsembleConfig):
            raise ValueError("Expected network=EnsembleConfig(...) to be a single network.")
        if self.changes:
            raise ValueError("Expected changes=() of BatchEnsemble, whose layers are its own.")

    @property
    def own_terms(self) -> tuple[Term, ...]:
        """Returns the members' mean cross-entropy."""
        return (CrossEntropy("mean"),)

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset."""
        fields = {"num_members": self.num_members, "factor_std": self.factor_std}
        layers = default_layers()._replace(
            conv=lambda **arguments: RankOneConv(**arguments, **fields),
            dense=lambda **arguments: RankOneDense(**arguments, **fields),
        )
        network = classifier(self, task, layers)

        def by_member(rows: Array) -> Array:
            rows = rows.reshape(-1, self.num_members, *rows.shape[1:])
            return jnp.swapaxes(rows, 0, 1)

        def run(variables, images, *, train):
            # Row b * m + i is member i of example b, so a device keeps its own examples.
            rows = jnp.repeat(images, self.num_members, axis=0)
            outputs, moved = network.apply(
                variables,
                rows,
                train=train,
                deterministic=True,
                mutable=["batch_stats"] if train else [],
            )
            return by_member(outputs.logits), jax.tree.map(by_member, outputs.taps), moved

        def init(*, key):
            images = jnp.zeros((self.num_members, *task.input_shape), jnp.float32)
            return dict(network.init(key, images, train=False, deterministic=True))

        def in_training(variables, images, labels, *, key, asked: Asked) -> Members:
            del labels, key, asked
            member_logits, _, moved = run(variables, images, train=True)
            return Members(member_logits, moved)

        def members(variables, images, *, key=None):
            del key
            return run(variables, images, train=False)[0]

        def taps(variables, images, *, key=None):
            del key
            return run(variables, images, train=False)[1]

        def predict(variables, images, *, key=None):
            return voting.scores(members(variables, images, key=key), self.vote)

        def deployed(variables, images, *, key=None):
            return voting.logits(members(variables, images, key=key), self.vote)

        def train_view(variables, images, *, key=None):
            del key
            return voting.logits(run(variables, images, train=True)[0], self.vote)

        views = {
            "deployed": deployed,
            "noise_off": deployed,
            "train": train_view,
            "members": members,
        }
        method = Method(init, no_loss, predict, views, vote=self.vote, taps=taps)
        return with_objective(
            method, self, Runs(in_training, gradients=False, quantities=False), task
        )
