"""What an attack costs: passes of the network, counted where they are computed.

Nothing in an attack counts. Its program is traced on a view whose calls are marked, what nobody
uses is left out as the compiler leaves it out, and the program is carried out with a counter in
every loop that holds a mark. So the count is that of the loops as they ran, of every attack.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.interpreters import partial_eval
from jaxtyping import Array, Float, Int

from robust_jax.attacks.members import MemberFn, member_of
from robust_jax.types import Images, KeyArray, View

P = ParamSpec("P")
R = TypeVar("R")

Counts = tuple[Array, Array]
"""Forward and backward passes so far."""


class Passes(NamedTuple):
    """Passes of the network for each image; a forward is one, a backward one.

    A pass is a call of the innermost view (below `eot` and the like, so each draw is one) on as
    many images as are attacked, or the way back through it to the images. It counts for every image
    of the batch that it computes, fallen or not, and not for rows that pad a batch. What is
    asked of a view before an attack begins (`checks.check_logits`) is no part of it. What a view
    computes inside a call is one pass whatever it is: an ensemble's members, several sources
    attacked together, the draws of a rule that votes over several are not counted apart.

    Attributes:
        forward: of each image.
        backward: likewise.

    Example:
        >>> from robust_jax.attacks import FGSM, Passes, ThreatModel, as_view
        >>> view = as_view(lambda images: 9 * images)  # two pixels, two classes
        >>> images, labels, key = jnp.asarray([[0.6, 0.5]]), jnp.asarray([0]), jax.random.key(0)
        >>> _, passes = FGSM(ThreatModel("linf", 0.1)).counted(view, images, labels, key=key)
        >>> passes.forward.tolist(), passes.backward.tolist()
        ([1], [1])
    """

    forward: Int[Array | np.ndarray, " b"]
    backward: Int[Array | np.ndarray, " b"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _marked_passes(logits: Array, num_pixels: int) -> Array:
    """Marks the passes on images of so many pixels, all in all: where they give logits.

    At the images several draws at once would be one, and what does not depend on a loop's counter
    is taken out of the loop by itself.
    """
    return _mark(_FORWARD, num_pixels, logits.size)(logits, logits)


def _forward(logits: Array, num_pixels: int) -> tuple[Array, Array]:
    logits = _marked_passes(logits, num_pixels)
    return logits, logits


def _backward(num_pixels: int, logits: Array, cotangent: Array) -> tuple[Array]:
    # Who goes back has gone forward, whether the logits themselves are used or not.
    return (_mark(_BACKWARD, num_pixels, logits.size)(cotangent, logits),)


_marked_passes.defvjp(_forward, _backward)

_FORWARD, _BACKWARD = "forward_pass", "backward_pass"


@functools.cache
def _mark(kind: str, num_pixels: int, size: int) -> Callable[[Array, Array], Array]:
    """Returns a function of an array and of what it comes after, whose name tells what it marks.

    What it computes is the type of the first and needs the second; it is never carried out.

    Args:
        kind: of the mark.
        num_pixels: of the images, as the view was called.
        size: of the argument then. At once with others, by `vmap`, it is a multiple.
    """

    def mark(array: Array, after: Array) -> Array:
        return array + jnp.sum(after).astype(array.dtype)

    mark.__name__ = f"{kind}:{num_pixels}:{size}"
    return jax.jit(mark)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Marked:
    """A view whose passes are marked."""

    view: View

    def __call__(self, images: Array, *, key: KeyArray) -> Float[Array, "*s b c"]:
        """Returns the view's logits."""
        return _marked_passes(self.view(images, key=key), images.size)

    @property
    def member(self) -> MemberFn | None:
        """Returns the function of one member alone, where the view has one."""
        alone = member_of(self.view)
        if alone is None:
            return None

        def one(
            images: Array, number: Int[Array, ""] | int, /, *, key: KeyArray
        ) -> Float[Array, "b c"]:
            return _marked_passes(alone(images, number, key=key), images.size)

        return one


_INNER = ("view", "views", "forward", "backward")
"""Names of the fields of a view that hold another one, or several."""


def marked(view: View) -> View:
    """Returns a view that gives the same, the innermost views in it marked."""
    if type(view).__module__.startswith("robust_jax.attacks.") and dataclasses.is_dataclass(view):
        names = [field.name for field in dataclasses.fields(view) if field.name in _INNER]
        held = {name: getattr(view, name) for name in names}
        inner = {
            name: tuple(map(marked, one)) if isinstance(one, tuple) else marked(one)
            for name, one in held.items()
        }
        if inner:
            return dataclasses.replace(view, **inner)
    return Marked(view)


def counted(function: Callable[P, R], images: Images) -> Callable[P, tuple[R, Passes]]:
    """Returns a function that gives what another does, and its passes for each image.

    Args:
        function: of arrays and `marked` views, to be compiled.
        images: what is attacked, [b ...].
    """

    def count(*args: P.args, **kwargs: P.kwargs) -> tuple[R, Passes]:
        leaves, structure = jax.tree.flatten((args, kwargs))

        def flat(*leaves: object) -> R:
            args, kwargs = jax.tree.unflatten(structure, leaves)
            return function(*args, **kwargs)  # pyright: ignore[reportCallIssue] (its own)

        closed, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves)
        used = [True] * len(closed.jaxpr.outvars)
        jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, used, instantiate=True)
        none = jnp.zeros((), jnp.int32)
        counter = _Counter(images.size)
        found, counts = counter.evaluate(jaxpr, closed.consts, leaves, (none, none))
        passes = Passes(*(jnp.broadcast_to(count, images.shape[:1]) for count in counts))
        return jax.tree.unflatten(jax.tree.structure(shapes), found), passes

    return count


class _Counter(NamedTuple):
    """Carries out a program and counts the marks in it.

    Attributes:
        unit: pixels of all images of the batch: a mark on so many is one pass for each.
    """

    unit: int

    def evaluate(
        self, jaxpr: Jaxpr, consts: Sequence[object], arguments: Sequence[object], counts: Counts
    ) -> tuple[list[object], Counts]:
        """Returns the results, and the counts after them."""
        values = dict(zip(jaxpr.constvars, consts, strict=True))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Var | Literal) -> object:
            return atom.val if isinstance(atom, Literal) else values[atom]

        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            if _holds_marks(equation):
                found, counts = self._counted(equation, operands, counts)
            else:
                params = equation.primitive.get_bind_params(equation.params)
                with equation.ctx.manager:
                    found = equation.primitive.bind(*operands, **params)
                found = found if equation.primitive.multiple_results else [found]
            values |= dict(zip(equation.outvars, found, strict=True))
        return [read(atom) for atom in jaxpr.outvars], counts

    def _inside(
        self, inner: Jaxpr | ClosedJaxpr, arguments: Sequence[object], counts: Counts
    ) -> tuple[list[object], Counts]:
        if isinstance(inner, ClosedJaxpr):
            return self.evaluate(inner.jaxpr, inner.consts, arguments, counts)
        return self.evaluate(inner, (), arguments, counts)

    def _counted(
        self, equation: JaxprEqn, operands: list[object], counts: Counts
    ) -> tuple[list[object], Counts]:
        name, params = equation.primitive.name, equation.params
        if _is_mark(equation):
            if not equation.outvars:  # nobody looks at what it gives
                return [], counts
            kind, num_pixels, size = params["name"].split(":")
            aval = equation.outvars[0].aval
            num_at_once = aval.size // int(size)  # pyright: ignore[reportAttributeAccessIssue]
            once = -(-num_at_once * int(num_pixels) // self.unit)
            forward, backward = counts
            counts = forward + once * (kind == _FORWARD), backward + once * (kind == _BACKWARD)
            return operands[:1], counts
        if name == "scan":
            return self._scan(equation, operands, counts)
        if name == "while":
            return self._while(equation, operands, counts)
        if name == "cond":
            index, *rest = operands
            branches = [
                lambda rest, counts, branch=branch: self._inside(branch, rest, counts)
                for branch in params["branches"]
            ]
            return jax.lax.switch(index, branches, rest, counts)
        if name == "remat2":
            return self._remat(equation, operands, counts)
        if name in ("jit", "closed_call", "custom_jvp_call", "custom_vjp_call"):
            inner = params["call_jaxpr"] if "call_jaxpr" in params else params["jaxpr"]
            return self._inside(inner, operands, counts)
        raise ValueError(f"Expected no view to be called inside {name}, whose passes are unknown.")

    def _remat(
        self, equation: JaxprEqn, operands: list[object], counts: Counts
    ) -> tuple[list[object], Counts]:
        """Counts in what is computed a second time; it stays what it is, its draws too."""
        inside = functools.partial(self._inside, equation.params["jaxpr"])
        closed, shapes = jax.make_jaxpr(inside, return_shape=True)(operands, counts)
        params = {**equation.params, "jaxpr": closed.jaxpr}
        found = equation.primitive.bind(*operands, *counts, **params)
        found, counts = jax.tree.unflatten(jax.tree.structure(shapes), found)
        return found, counts

    def _scan(
        self, equation: JaxprEqn, operands: list[object], counts: Counts
    ) -> tuple[list[object], Counts]:
        params, (num_consts, num_carry) = equation.params, _split_of_a_scan(equation)
        consts, carry = operands[:num_consts], operands[num_consts : num_consts + num_carry]

        def step(state, slices):
            carry, counts = state
            found, counts = self._inside(params["jaxpr"], [*consts, *carry, *slices], counts)
            return (found[:num_carry], counts), found[num_carry:]

        (carry, counts), stacked = jax.lax.scan(
            step,
            (carry, counts),
            operands[num_consts + num_carry :],
            length=params["length"],
            reverse=params["reverse"],
            unroll=params["unroll"],
        )
        return [*carry, *stacked], counts

    def _while(
        self, equation: JaxprEqn, operands: list[object], counts: Counts
    ) -> tuple[list[object], Counts]:
        params = equation.params
        condition, body = params["cond_jaxpr"], params["body_jaxpr"]
        if _marks_in(condition):
            raise ValueError("Expected no view to be called in the condition of a loop.")
        first, second = params["cond_nconsts"], params["body_nconsts"]
        of_condition, of_body = operands[:first], operands[first : first + second]

        def goes_on(state):
            return self._inside(condition, [*of_condition, *state[0]], counts)[0][0]

        def step(state):
            return self._inside(body, [*of_body, *state[0]], state[1])

        return jax.lax.while_loop(goes_on, step, (operands[first + second :], counts))


def _split_of_a_scan(equation: JaxprEqn) -> tuple[int, int]:
    """Returns how many operands are constants of the loop, and how many are carried."""
    params = equation.params
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()  # as newer JAX says it
    return len(consts), len(carry)


def _is_mark(equation: JaxprEqn) -> bool:
    name = str(equation.params.get("name"))
    return equation.primitive.name == "jit" and name.split(":")[0] in (_FORWARD, _BACKWARD)


def _holds_marks(equation: JaxprEqn) -> bool:
    if _is_mark(equation):
        return True
    inner = [each for value in equation.params.values() for each in _programs_in(value)]
    return any(map(_marks_in, inner))


def _marks_in(program: Jaxpr | ClosedJaxpr) -> bool:
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    return any(map(_holds_marks, jaxpr.eqns))


def _programs_in(value: object) -> list[Jaxpr | ClosedJaxpr]:
    if isinstance(value, Jaxpr | ClosedJaxpr):
        return [value]
    if isinstance(value, tuple | list):
        return [each for part in value for each in _programs_in(part)]
    return []
