"""Attacks without a bound on a public CIFAR-10 network: distances, optimality, price.

python benchmarks/minimum_norm.py --checkpoint FILE --data-dir DIR [--adv-lib DIR] [--out LOG]
    [--norms NORM ...] [--attacks NAME ...] [--kept DIR]

FILE and DIR as in autoattack_parity.py, --adv-lib as in sparse_parity.py: then FMN and DDN are run
beside that library's at equal steps, on the same network through a bridge. Every image is judged
again, apart from the attack: one that is classified right is infinitely far, one that is
classified wrong as it is at 0, as AttackBench has it. Passes are counted as the loops ran.

Optimality of an attack is that of AttackBench (Cina et al., 2025, equations 4 and 5, as in
metrics/distances.py of attackbenchlib 2.0.2). The area under a security curve up to eps_0 is the
mean of min(d, eps_0) over the images, d their distances and eps_0 the largest of the per-image
best of all attacks of the norm. With the area A of an attack, A* of that best and the clean
accuracy r it is (r eps_0 - A) / (r eps_0 - A*): 1 where no image is nearer to any other attack, 0
where it does nothing. It is relative to who takes part. --kept keeps distances, so that attacks
can be run one by one and compared together.

Kept in results/minimum_norm.txt (two shared cores: seconds are with compilation). Beside adv-lib
at 100 steps, 32 images, median and mean of ours over theirs: FMN L0 1.000 and .996, L1 1.000 and
1.004, L2 1.015 and .999, Linf 1.002 and 1.002; DDN 1.000 and 1.000. Radii follow decisions on the
boundary: of images moved by 1e-6, three times, FMN's medians in L2 are .0919 .0908 .0895 here and
.0910 .0920 .0901 there, and the median of the ratios by image is 1.0000 each time. Of 24 images, in
L2: C&W 9 x 1000 median .0920 and optimality .905 for 18,018 passes; FMN .0910 and .930, DDN .0845
and .965 for 200; both .082 and .987 for 1,000.
"""

import dataclasses
import json
import pathlib
import time

import autoattack_parity
import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from attack_referees import TorchView, adv_lib, to_torch
from timing import teller

from robust_jax.attacks import (
    DDN,
    EAD,
    FAB,
    FMN,
    Attack,
    CarliniWagner,
    DeepFool,
    SigmaZero,
    SmallestEps,
    ThreatModel,
)
from robust_jax.attacks.threat import distance

ORDERS = {"l0_values": 0, "l1": 1, "l2": 2, "linf": float("inf")}
WIDE = {"linf": 1.0, "l2": 10.0, "l1": 300.0}
"""Radii that hold every image that is found: FAB then is an attack without a bound."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the comparison.

    Attributes:
        checkpoint: akamaster_resnet20_cifar10.th.
        data_dir: folder of prepared TFDS datasets.
        adv_lib: folder that holds the package adv_lib; None to leave it out.
        norms: which.
        attacks: of the norms' attacks those of these names; all of them where none is named.
        num_images: how many test images.
        num_steps: of FMN and DDN beside adv-lib's.
        kept: folder of what earlier calls found, which is added to.
        out: file that the lines are appended to.
    """

    checkpoint: pathlib.Path
    data_dir: str
    adv_lib: pathlib.Path | None = None
    norms: tuple[str, ...] = tuple(ORDERS)
    attacks: tuple[str, ...] = ()
    num_images: int = 48
    num_steps: int = 100
    kept: pathlib.Path | None = None
    out: pathlib.Path | None = None


def attacks_of(norm: str) -> dict[str, Attack]:
    """Returns the attacks of a norm by name."""
    named: dict[str, Attack] = {
        f"FMN {n}": FMN(distance_norm=norm, num_steps=n) for n in (100, 500)
    }
    if norm in WIDE:
        named["FAB"] = FAB(ThreatModel(norm, WIDE[norm]), num_steps=50)
    if norm in ("linf", "l2"):
        named |= {
            "DeepFool": DeepFool(distance_norm=norm),
            "PGD, smallest eps": SmallestEps(
                distance_norm=norm, initial_eps={"linf": 0.01, "l2": 0.5}[norm]
            ),
        }
    if norm == "l2":
        named |= {f"DDN {n}": DDN(num_steps=n) for n in (100, 500)}
        named |= {
            "C&W 9 x 200": CarliniWagner(num_steps=200, initial_constant=0.1),
            "C&W 9 x 1000": CarliniWagner(),
        }
    if norm == "l1":
        named["EAD 9 x 100"] = EAD(num_steps=100, initial_constant=0.1, decision="l1")
    if norm == "l0_values":
        named |= {f"sigma-zero {n}": SigmaZero(num_steps=n) for n in (100, 500)}
    return named


def optimality(found: np.ndarray, best: np.ndarray) -> float:
    """Returns AttackBench's optimality of distances [n], given the best known of each image [n]."""
    eps = np.max(best[np.isfinite(best)])
    nothing = np.mean(best > 0) * eps
    areas = [np.mean(np.minimum(distances, eps)) for distances in (found, best)]
    return float((nothing - areas[0]) / (nothing - areas[1]))


def main(arguments: Arguments) -> None:
    """Prints one line per attack beside adv-lib's, and a table per norm."""
    view, images, labels = autoattack_parity.load(
        autoattack_parity.Arguments(
            arguments.checkpoint, arguments.data_dir, num_images=arguments.num_images
        )
    )
    forward = jax.jit(lambda images: view(images, key=None))
    right = np.argmax(forward(images), axis=1) == labels
    say = teller(arguments.out)
    say(f"{len(images)} images, {right.sum()} right, jax {jax.__version__}")

    def distances(found, norm):
        """Distances of the images that are misclassified, judged again."""
        assert found.min() >= 0
        assert found.max() <= 1
        fooled = np.argmax(forward(jnp.asarray(found)), axis=1) != labels
        far = np.asarray(distance(norm, jnp.asarray(found), jnp.asarray(images)), float)
        return np.where(right, np.where(fooled, far, np.inf), 0.0)

    if arguments.adv_lib is not None:
        module, classes = TorchView(view).eval(), torch.from_numpy(labels).long()
        fmn = adv_lib(arguments.adv_lib, "fast_minimum_norm").fmn
        ddn = adv_lib(arguments.adv_lib, "decoupled_direction_norm").ddn
        steps = arguments.num_steps
        pairs = [
            (FMN(distance_norm=norm, num_steps=steps), norm, fmn, {"norm": ORDERS[norm]})
            for norm in arguments.norms
        ]
        if "l2" in arguments.norms:
            pairs += [(DDN(num_steps=steps), "l2", ddn, {"levels": None})]
        for attack, norm, theirs, fields in pairs:
            ours = distances(attack(view, images, labels, key=jax.random.key(0)), norm)[right]
            found = theirs(module, to_torch(images), classes, steps=steps, **fields)
            found = np.clip(found.detach().numpy().transpose(0, 2, 3, 1), 0, 1)
            found = distances(found, norm)[right]
            say(
                f"{type(attack).__name__} {norm}, {steps} steps: ours {described(ours)}; "
                f"adv-lib {described(found)}"
            )

    for norm in arguments.norms:
        rows: dict[str, dict] = {}
        kept = arguments.kept and arguments.kept / f"{norm}.json"
        if kept and kept.is_file():
            rows = json.loads(kept.read_text())
        for name, attack in attacks_of(norm).items():
            if name in rows or (arguments.attacks and name not in arguments.attacks):
                continue
            began = time.perf_counter()
            found, passes = attack.counted(view, images, labels, key=jax.random.key(0))
            found = np.asarray(found)
            rows[name] = {
                "seconds": time.perf_counter() - began,
                "passes": [int(each.max()) for each in passes],
                "distances": distances(found, norm).tolist(),
            }
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(rows))
        if rows:
            table(norm, rows, right, say)


def table(norm: str, rows: dict[str, dict], right: np.ndarray, say) -> None:
    """Prints the attacks of a norm, the most optimal first."""
    best = np.min([row["distances"] for row in rows.values()], axis=0)
    scores = {n: optimality(np.array(row["distances"]), best) for n, row in rows.items()}
    say(f"{norm:20}{'found':>7}{'median':>9}{'optimality':>12}{'passes':>9}{'seconds':>9}")
    for name in sorted(rows, key=scores.__getitem__, reverse=True):
        found, row = np.array(rows[name]["distances"])[right], rows[name]
        say(
            f"{name:20}{np.isfinite(found).sum():7}{np.median(found):9.4g}{scores[name]:12.4f}"
            f"{sum(row['passes']):9,}{row['seconds']:9.0f}"
        )


def described(found: np.ndarray) -> str:
    """Returns how many are found, and how far they are."""
    near = found[np.isfinite(found)]
    return (
        f"{len(near)} of {len(found)} found, median {np.median(found):.5g}, mean {near.mean():.5g}"
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
