"""Other libraries' attacks run on our views: the bridges that the parity checks cross.

Only calls of those libraries, no code of theirs.
"""

import importlib
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import torch

from robust_jax.runtime.compilation import jitted
from robust_jax.runtime.live import as_pytree

KEY_SEED = 0  # a deterministic view ignores its key


class TorchView(torch.nn.Module):
    """A deterministic view [b h w k] -> logits as a torch module on [b k h w] images.

    Batches are padded to a few sizes (`bucket`): attacks that shrink their batch at every step
    would otherwise compile one program per size.
    """

    def __init__(self, view):
        super().__init__()
        view, key = as_pytree(view), jax.random.key(KEY_SEED)
        forward = jitted(lambda view, images: view(images, key=key))
        # The way back is kept, so that no forward pass is computed twice.
        both = jitted(lambda view, images: jax.vjp(lambda x: view(x, key=key), images))
        backward = jitted(lambda pullback, cotangent: pullback(cotangent)[0])

        class Bridge(torch.autograd.Function):
            @staticmethod
            def forward(ctx, images):
                if ctx.needs_input_grad[0]:
                    logits, ctx.pullback = both(view, to_jax(images))
                else:
                    logits = forward(view, to_jax(images))
                return torch.from_numpy(np.array(logits[: len(images)]))

            @staticmethod
            def backward(ctx, cotangent):
                padded = np.zeros((bucket(len(cotangent)), cotangent.shape[1]), np.float32)
                padded[: len(cotangent)] = cotangent.numpy()
                slope = np.asarray(backward(ctx.pullback, jnp.asarray(padded)))[: len(cotangent)]
                return to_torch(slope)

        self._bridge = Bridge

    def forward(self, images):
        """Returns the logits."""
        return self._bridge.apply(images.float())


def bucket(size: int) -> int:
    """Returns the size that a batch is padded to: a power of two, or three quarters of one."""
    whole = 1 << max(size - 1, 0).bit_length()
    return whole * 3 // 4 if whole >= 4 and size <= whole * 3 // 4 else whole


def to_jax(images):
    """Returns a torch batch [b k h w] as a padded JAX batch [b h w k]."""
    array = images.detach().cpu().numpy().transpose(0, 2, 3, 1)
    padded = np.zeros((bucket(len(array)), *array.shape[1:]), np.float32)
    padded[: len(array)] = array
    return jnp.asarray(padded)


def to_torch(images):
    """Returns a batch [b h w k] as a torch batch [b k h w]."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(images).transpose(0, 3, 1, 2)))


def adv_lib(folder: pathlib.Path, name: str) -> types.ModuleType:
    """Returns a module of adv-lib's attacks, without what its package imports besides.

    Args:
        folder: holds the package (pip install --no-deps --target FOLDER adv-lib).
        name: of the module, "sigma_zero".
    """
    for package in ("adv_lib", "adv_lib.attacks", "adv_lib.utils", "adv_lib.distances"):
        module = types.ModuleType(package)
        module.__path__ = [str(folder / package.replace(".", "/"))]
        sys.modules.setdefault(package, module)
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))  # for its curves, not drawn here
    return importlib.import_module(f"adv_lib.attacks.{name}")


NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
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
        names: keys of `NAMES`, each with one restart, or "standard" for the suite.
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
    if names != "standard":
        suite.apgd.n_restarts = 1
    suite.fab.n_restarts = 1
    if threat.norm == "l1":  # as in version "standard"
        suite.apgd.use_largereps = suite.apgd_targeted.use_largereps = True
        suite.apgd_targeted.n_target_classes = 5
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

    # Through torch: Foolbox's own steps compile one program per operation and shape in JAX.
    model = foolbox.PyTorchModel(TorchView(view).eval(), bounds=(0, 1), device="cpu")
    targets = torch.from_numpy(np.asarray(labels)).long()
    fields = {} if starting_points is None else {"starting_points": to_torch(starting_points)}
    clean = to_torch(images)
    torch.manual_seed(0)
    found = attack.run(model, clean, targets, **fields)
    delta = (found - clean).numpy().reshape(len(labels), -1)
    fooled = (model(found).argmax(dim=1) != targets).numpy()
    order = {"l2": 2, "linf": np.inf}[norm]
    return np.where(fooled, np.linalg.norm(delta, ord=order, axis=1), np.inf)
