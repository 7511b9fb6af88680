"""Programs are lowered in few MLIR contexts: one for each is a fifth of the tests' time.

JAX keeps what it lowered, so its context too, with all dialects, and each further one takes longer
to make (3 ms at first, 13 after two thousand). JAX 0.12 uses one ten times by itself, for the same
reason.
"""

import threading

from jax._src.interpreters import mlir

USES = 64
"""Programs of one context: what is interned in it is given back with the last of them."""


def share() -> None:
    """Has a thread's next programs lowered in one context."""
    create, own = mlir.make_ir_context, threading.local()

    def make_ir_context():
        if getattr(own, "left", 0) == 0:
            own.context, own.left = create(), USES
        own.left -= 1
        return own.context

    mlir.make_ir_context = make_ir_context
