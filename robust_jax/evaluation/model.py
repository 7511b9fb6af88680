"""What an evaluation judges: functions with a name."""

import contextlib
import functools
import hashlib
import inspect
from typing import Literal, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from robust_jax import voting
from robust_jax.data import Split
from robust_jax.formats import Tree
from robust_jax.methods import Method, MethodConfig
from robust_jax.methods.base import MethodView
from robust_jax.models import modules
from robust_jax.models.modules import Given, Layout
from robust_jax.runtime.dry_run import dry_run
from robust_jax.runtime.sharding import replicated, whole
from robust_jax.serialization import to_json
from robust_jax.types import Task, Variables


class Model(NamedTuple):
    """A model as it is judged: a method's functions, its arrays, and what they are called.

    Attributes:
        name: of the model; a paper's printed row is found by it.
        method: its functions.
        variables: its arrays.
        num_classes: number of classes.
        input_shape: height, width and channels of its images; None for those of the data.
        class_names: in label order; empty where none are known.
        config: what the method was made from; None for functions that were handed in.
        step: of the checkpoint.

    Example:
        >>> from robust_jax.evaluation import Model
        >>> def logits(images, *, key):  # a random model takes `key`
        ...     noise = 0.1 * jax.random.normal(key, (len(images), 2))
        ...     return images.mean(axis=(1, 2))[:, :2] + noise
        >>> model = Model.of(logits, num_classes=2, stochastic=True, name="noisy")
        >>> model.name, model.kind, model.method.stochastic, sorted(model.method.views)
        ('noisy', 'function', True, ['deployed', 'members', 'train'])
    """

    name: str
    method: Method
    variables: Variables
    num_classes: int
    input_shape: tuple[int, int, int] | None = None
    class_names: tuple[str, ...] = ()
    config: MethodConfig | None = None
    step: int = 0

    @property
    def kind(self) -> str:
        """Returns what its method is called."""
        return "function" if self.config is None else type(self.config).__name__

    @property
    def labels(self) -> list[str]:
        """Returns a name for each class."""
        return list(self.class_names) or [str(number) for number in range(self.num_classes)]

    def task(self, shape: tuple[int, int, int]) -> Task:
        """Returns the data's shape as this model takes it; `num_train` is not known here."""
        return Task(self.input_shape or shape, self.num_classes, 0)

    def described(self, split: Split) -> Tree:
        """Returns what a claim says of it.

        Of a function, which no configuration says, what it is seen to do: see `_answers`.
        """
        made = {"type": self.kind} if self.config is None else to_json(self.config)
        seen = {"answers": self._answers(split)} if self.config is None else {}
        return {
            "name": self.name,
            "step": self.step,
            "weights": fingerprint(jax.tree.map(_numbers, self.variables)),
            "method": {**made, **seen},
        }

    def _answers(self, split: Split) -> str:
        """Returns twelve hex digits that tell a function from others.

        They stand for its scores of the first images and of noise, in four digits, so that a
        function that was changed where none of these is affected passes for the same.
        """
        first = np.stack([split[row][0] for row in range(min(8, len(split)))])
        real = first / np.float32(255) if first.dtype == np.uint8 else first
        images = jax.random.uniform(jax.random.key(0), (8, *split.shape))
        images = jnp.concatenate([images, jnp.asarray(real, jnp.float32)])
        keys = jax.random.split(jax.random.key(1))
        digest = hashlib.sha256(f"{self.method.vote} {self.method.stochastic}".encode())
        for name, key in zip(("deployed", "members"), keys, strict=True):
            scores = jax.jit(self.method.view(name))(self.variables, images, key=key)
            found = np.asarray(scores, np.float64)
            finite = np.where(np.isfinite(found), found, 0)
            unit = 10 ** np.floor(np.log10(max(np.abs(finite).max(), 1e-30)) - 4)
            digits = np.round(finite / unit)
            digest.update(digits.astype(np.int64).tobytes())
            if not np.all(np.isfinite(found)):
                kinds = np.isnan(found), np.isposinf(found), np.isneginf(found)
                digest.update(np.stack(kinds).tobytes())
        return digest.hexdigest()[:12]

    def check(self, shape: tuple[int, int, int]) -> None:
        """Checks that a function gives a score for each class, of images of this shape.

        Raises:
            ValueError: it gives something else, or does not run on them; in one line.
        """
        if self.config is None:
            images: PyTree = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
            predict = functools.partial(self.method.predict, key=jax.random.key(0))
            dry_run(predict, self.variables, images, what="a pass")
            scores = jax.eval_shape(predict, self.variables, images).shape
            if scores != (1, self.num_classes):
                raise ValueError(
                    f"Expected {self.name!r} to give one array [b {self.num_classes}] of scores, "
                    f"found {scores} of one image."
                )
            members = functools.partial(self.method.view("members"), key=jax.random.key(0))
            dry_run(members, self.variables, images, what="members")
            found = jax.eval_shape(members, self.variables, images).shape
            if len(found) != 3 or found[1:] != scores:
                raise ValueError(
                    f"Expected members to give [m b {self.num_classes}], found {found} of an image."
                )

    def on(self, mesh: Mesh) -> "Model":
        """Returns the model as an evaluation takes it: a function as it is now, on all devices.

        What is compiled is found by a function's identity: of a function whose captured arrays have
        changed since the last evaluation it is renewed.
        """
        if self.config is not None:
            return self

        def renewed(function: MethodView) -> MethodView:
            return lambda variables, images, *, key=None: function(variables, images, key=key)

        views = {name: renewed(view) for name, view in self.method.views.items()}
        method = self.method._replace(predict=renewed(self.method.predict), views=views)
        arrays = jax.device_put(self.variables, replicated(mesh))
        return self._replace(method=method, variables=arrays)

    @classmethod
    def of(
        cls,
        function: Given,
        variables: Variables | None = None,
        *,
        num_classes: int,
        stochastic: bool = False,
        members: Given | None = None,
        surrogate: Given | None = None,
        vote: voting.Vote | None = None,
        draws_per: Literal["row", "call"] = "call",
        layout: Layout | None = None,
        scale: int | float = 1.0,
        name: str | None = None,
    ) -> "Model":
        """Returns a function of images, or a module of another library, as a model.

        Modules of flax nnx, Equinox and PyTorch are taken in evaluation mode, those that draw in
        the mode they are in; a linen module stands beside its variables.

        Args:
            function: images [b h w k] in [0, 1] -> logits [b c], or with `variables` (variables,
                images) -> logits; a random one takes `key=` besides. What it has captured is taken
                as it is when the evaluation begins. An Equinox module takes one image, as Equinox
                has it.
            variables: its arrays, a tree of them; None where it has them itself.
            num_classes: c.
            stochastic: does it draw?
            members: likewise, the logits of an ensemble's members [m b c]; None for one network.
            surrogate: likewise, logits with useful gradients, for attacks on the view of that name
                (BPDA; Athalye et al., 2018); None for none.
            vote: by which rule the function decides over its members, for certified margins; of
                one network any.
            draws_per: of a random one, what has draws of its own: each "row" of a batch, or each
                "call", which is safe to say of any, and smoothing is slower by.
            layout: axes of the images it takes, "NHWC" or "NCHW"; None for NCHW of a PyTorch or
                Equinox module and NHWC of all else.
            scale: what pixels are multiplied by before it: 255 where it takes them up to 255.
            name: printed; None for the module's class, or "function".

        Raises:
            ValueError: the function demands a key, and is not said to be random; or see
                `modules.as_function`.

        Example:
            >>> from robust_jax.evaluation import Model
            >>> Model.of(lambda images: images[:, 0, 0], num_classes=3, name="a pixel").name
            'a pixel'
            >>> from flax import nnx
            >>> class Net(nnx.Module):
            ...     def __init__(self, rngs):
            ...         self.linear = nnx.Linear(12, 3, rngs=rngs)
            ...     def __call__(self, images):
            ...         return self.linear(images.reshape(len(images), -1))
            >>> Model.of(Net(nnx.Rngs(0)), num_classes=3).name
            'Net'
        """
        name = name or modules.named(function)
        if not stochastic and _demands_a_key(function):
            raise ValueError(f"Expected {name!r}, which asks for a key, to say stochastic=True.")
        given = {"deployed": function, "members": members, "surrogate": surrogate}
        arrays: dict[str, PyTree] = {}
        views: dict[str, MethodView] = {}
        for role, one in given.items():
            if one is not None:
                made = modules.as_function(one, variables, stochastic=stochastic)
                arrays[made.arrays_of or role] = made.variables
                views[role] = _view(made, role, layout, scale)
        views["train"] = views["deployed"]
        views.setdefault("members", _alone(views["deployed"]))

        def absent(*_: object, **__: object) -> NoReturn:
            raise ValueError(f"Expected {name!r} to be judged alone: a function has no training.")

        vote = "mean_logit" if vote is None and members is None else vote
        method = Method(
            absent, absent, views["deployed"], views,
            stochastic=stochastic, vote=vote, draws_per=draws_per,
        )  # fmt: skip
        return cls(name, method, jax.tree.map(jnp.asarray, arrays), num_classes)


def _view(
    function: modules.Function, role: str, layout: Layout | None, scale: int | float
) -> MethodView:
    """Returns a function as a view, of images as they lie here."""
    first = (layout or function.layout) == "NCHW"

    def view(variables: Variables, images: Array, /, *, key: Key[Array, ""] | None = None) -> Array:
        images = images if scale == 1.0 else images * scale
        images = jnp.moveaxis(images, -1, -3) if first else images
        # Fixed draws are asked of one key again and again, which is for that function to use once.
        key = None if key is None else jax.random.fold_in(key, 0)
        scores = function.call(variables[function.arrays_of or role], images, key)
        if not hasattr(scores, "dtype") or not jnp.issubdtype(scores.dtype, jnp.floating):
            found = type(scores).__name__ if not hasattr(scores, "dtype") else scores.dtype
            raise ValueError(f"{role!r} is to give one floating array of scores, found {found}.")
        return scores

    return view


def _alone(deployed: MethodView) -> MethodView:
    """Returns the view of the members of one network."""

    def view(variables: Variables, images: Array, /, *, key: Key[Array, ""] | None = None) -> Array:
        return deployed(variables, images, key=key)[None]

    return view


def _numbers(array: Array) -> Array:
    """Returns an array, or what a key holds."""
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(array) if is_key else array


def _demands_a_key(function: object) -> bool:
    if not callable(function):
        return False
    with contextlib.suppress(TypeError, ValueError):  # not everything has a signature
        key = inspect.signature(function).parameters.get("key")
        return key is not None and key.default is inspect.Parameter.empty
    return False


def fingerprint(variables: Variables) -> str:
    """Returns twelve hex digits that two models share only if all their arrays are equal.

    Of arrays that lie on several hosts in parts it is every host's to ask.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(whole(variables)):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]
