"""Other libraries' attacks run on our views: the bridges that the parity checks cross.

Only calls of those libraries, no code of theirs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from robust_jax.attacks.views import as_pytree

KEY_SEED = 0  # a deterministic view ignores its key


class TorchView(torch.nn.Module):
    """A deterministic view [b h w k] -> logits as a torch module on [b k h w] images.

    Batches are padded to a power of two: attacks that shrink their batch at every step would
    otherwise compile one program per size.
    """

    def __init__(self, view):
        super().__init__()
        view, key = as_pytree(view), jax.random.key(KEY_SEED)
        forward = jax.jit(lambda view, images: view(images, key=key))

        @jax.jit
        def backward(view, images, cotangent):
            return jax.vjp(lambda x: view(x, key=key), images)[1](cotangent)[0]

        class Bridge(torch.autograd.Function):
            @staticmethod
            def forward(ctx, images):
                ctx.images = images.detach()
                logits = forward(view, to_jax(ctx.images))[: len(images)]
                return torch.from_numpy(np.array(logits))

            @staticmethod
            def backward(ctx, cotangent):
                padded = np.zeros((bucket(len(cotangent)), cotangent.shape[1]), np.float32)
                padded[: len(cotangent)] = cotangent.numpy()
                slope = backward(view, to_jax(ctx.images), jnp.asarray(padded))
                slope = np.asarray(slope)[: len(cotangent)].transpose(0, 3, 1, 2)
                return torch.from_numpy(np.ascontiguousarray(slope))

        self._bridge = Bridge

    def forward(self, images):
        """Returns the logits."""
        return self._bridge.apply(images.float())


def bucket(size: int) -> int:
    """Returns the power of two that a batch is padded to."""
    return 1 << max(size - 1, 0).bit_length()


def to_jax(images):
    """Returns a torch batch [b k h w] as a padded JAX batch [b h w k]."""
    array = images.cpu().numpy().transpose(0, 2, 3, 1)
    padded = np.zeros((bucket(len(array)), *array.shape[1:]), np.float32)
    padded[: len(array)] = array
    return jnp.asarray(padded)


def to_torch(images):
    """Returns a batch [b h w k] as a torch batch [b k h w]."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(images).transpose(0, 3, 1, 2)))


NORMS = {"linf": "Linf", "l2": "L2"}
NAMES = {
    "apgd_ce": "apgd-ce",
    "apgd_dlr": "apgd-dlr",
    "apgd_t": "apgd-t",
    "fab": "fab",
    "fab_t": "fab-t",
    "square": "square",
}


def official(module, images, labels, threat, names, *, num_queries=5000, batch_size=128, seed=0):
    """Returns the official AutoAttack code's images [b h w k] of the attacks named, in turn.

    Args:
        module: a torch module on [b k h w].
        images: clean images [b h w k].
        labels: class of each image.
        threat: the ball.
        names: keys of `NAMES`, or "standard" for the suite.
        num_queries: of Square.
        batch_size: images at a time.
        seed: of the official code.
    """
    from pyautoattack import AutoAttack

    fields = {"version": "standard"}
    if names != "standard":
        fields = {"version": "custom", "attacks": [NAMES[name] for name in names]}
    suite = AutoAttack(
        module.eval(), norm=NORMS[threat.norm], eps=threat.eps, seed=seed, device="cpu", **fields
    )
    # One restart everywhere, as in version "standard".
    suite.apgd.n_restarts, suite.fab.n_restarts = 1, 1
    suite.square.n_queries = num_queries
    found = suite.run_standard_evaluation(
        to_torch(images), torch.from_numpy(np.asarray(labels)).long(), batch_size=batch_size
    )[0]
    return np.asarray(found).transpose(0, 2, 3, 1)


def foolbox_distances(view, images, labels, attack, *, norm, starting_points=None):
    """Returns the distance of each adversarial image that a Foolbox attack finds.

    Args:
        view: a deterministic view.
        images: clean images [b h w k].
        labels: class of each image.
        attack: a Foolbox attack.
        norm: norm of the distances, "l2" or "linf".
        starting_points: adversarial images to start from, for attacks that take them.
    """
    import foolbox

    key = jax.random.key(KEY_SEED)
    forward = jax.jit(lambda x: view(x, key=key))
    # Foolbox mixes ranks and dtypes, which strict flags forbid.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        model = foolbox.JAXModel(forward, bounds=(0, 1))
        fields = {} if starting_points is None else {"starting_points": starting_points}
        found = attack.run(model, jnp.asarray(images), jnp.asarray(labels), **fields)
        delta = np.asarray(found - images).reshape(len(labels), -1)
        fooled = np.argmax(forward(found), axis=1) != np.asarray(labels)
    order = {"l2": 2, "linf": np.inf}[norm]
    return np.where(fooled, np.linalg.norm(delta, ord=order, axis=1), np.inf)
