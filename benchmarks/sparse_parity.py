"""Our sigma-zero and Sparse-RS against other code on a public CIFAR-10 network, at equal budgets.

python benchmarks/sparse_parity.py --checkpoint FILE --data-dir DIR --adv-lib DIR [--sparse-rs DIR]
    [--out LOG]

FILE and DIR as in autoattack_parity.py. --adv-lib is a folder with the package of that name
(pip install --no-deps --target DIR adv-lib; of its modules only this attack's are imported, for
others need torchvision), --sparse-rs a copy of the authors' code (github.com/fra31/sparse-rs).
Both are run on the same JAX network through a bridge. Sigma-zero: changed values of the adversarial
images, whose search follows the last bit: each repetition but the first moves the images by 1e-6,
which shows how much of a difference is chance. Sparse-RS: images left standing, a line for a seed.
"""

import dataclasses
import importlib
import pathlib
import sys
import time

import autoattack_parity
import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from attack_referees import TorchView, adv_lib, to_torch
from timing import teller

from robust_jax.attacks import SigmaZero, SparseRS, ThreatModel
from robust_jax.attacks.threat import distance


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the comparison.

    Attributes:
        checkpoint: akamaster_resnet20_cifar10.th.
        data_dir: folder of prepared TFDS datasets.
        adv_lib: folder that holds the package adv_lib.
        sparse_rs: the authors' repository; None to leave Sparse-RS out.
        num_images: how many test images.
        num_steps: of sigma-zero.
        repetitions: how often each is run.
        pixels: of Sparse-RS.
        num_queries: of Sparse-RS.
        out: file that the lines are appended to.
    """

    checkpoint: pathlib.Path
    data_dir: str
    adv_lib: pathlib.Path
    sparse_rs: pathlib.Path | None = None
    num_images: int = 48
    num_steps: int = 200
    repetitions: int = 4
    pixels: int = 4
    num_queries: int = 300
    out: pathlib.Path | None = None


def main(arguments: Arguments) -> None:
    """Prints one line per attack and repetition."""
    view, images, labels = autoattack_parity.load(
        autoattack_parity.Arguments(
            arguments.checkpoint, arguments.data_dir, num_images=arguments.num_images
        )
    )
    module, classes = TorchView(view).eval(), torch.from_numpy(labels).long()
    forward = jax.jit(lambda images: view(images, key=None))

    say = teller(arguments.out)

    def judged(found, clean, norm):
        fooled = np.argmax(forward(jnp.asarray(found)), axis=1) != labels
        return fooled, np.asarray(distance(norm, jnp.asarray(found), jnp.asarray(clean)))

    def channels_last(found):
        return found.numpy().transpose(0, 2, 3, 1)

    say(f"{len(images)} images, jax {jax.__version__} on {jax.default_backend()}")
    theirs = adv_lib(arguments.adv_lib, "sigma_zero").sigma_zero
    noise = np.random.default_rng(0)
    for repetition in range(arguments.repetitions):
        moved = 1e-6 * noise.standard_normal(images.shape).astype(np.float32)
        clean = np.clip(images + moved * (repetition > 0), 0, 1)
        began = time.perf_counter()
        ours = SigmaZero(num_steps=arguments.num_steps)(
            view, clean, labels, key=jax.random.key(repetition)
        )
        parts = [f"ours {described(*judged(ours, clean, 'l0_values'))}"]
        parts[0] += f" in {time.perf_counter() - began:.0f} s"
        began = time.perf_counter()
        found = theirs(module, to_torch(clean), classes, num_steps=arguments.num_steps)
        parts.append(f"adv-lib {described(*judged(channels_last(found), clean, 'l0_values'))}")
        parts[1] += f" in {time.perf_counter() - began:.0f} s"
        say(f"sigma-zero, {arguments.num_steps} steps: " + "; ".join(parts))
    if arguments.sparse_rs is None:
        return
    sys.path.insert(0, str(arguments.sparse_rs))
    rs_attacks = importlib.import_module("rs_attacks")
    threat = ThreatModel("l0", float(arguments.pixels))
    for seed in range(arguments.repetitions):
        attack = SparseRS(threat, num_queries=arguments.num_queries)
        ours, changed = judged(attack(view, images, labels, key=jax.random.key(seed)), images, "l0")
        assert changed.max() <= arguments.pixels
        official = rs_attacks.RSAttack(
            module,
            norm="L0",
            eps=arguments.pixels,
            n_queries=arguments.num_queries,
            p_init=0.3,
            seed=seed,
            verbose=False,
            device="cpu",
        )
        found = official.perturb(to_torch(images), classes)[1]
        others, _ = judged(channels_last(found), images, "l0")
        say(
            f"Sparse-RS, {threat}, {arguments.num_queries} queries, seed {seed}: standing ours "
            f"{np.sum(~ours)}, the authors' {np.sum(~others)}"
        )


def described(fooled: np.ndarray, changed: np.ndarray) -> str:
    """Returns how many are fooled, and by how many changed values."""
    found = changed[fooled]
    return f"{fooled.sum()} fooled, median {np.median(found):g}, mean {found.mean():.2f}"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
