"""Verdicts of FrugalAttack beside AutoAttack's, of several seeds, and beside the official code's.

On the public networks, whose files were carried; of an ensemble by its rule. Both suites run at
the device's quickest products, as their users do; what stands is counted by products of float32.
"""

import functools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import public_networks

from on_accelerator import attacks, sides
from on_accelerator.carried import as_float, load_images, load_network
from on_accelerator.rows import Setting, Task, Value
from robust_jax.attacks import APGD, AutoAttack, FrugalAttack, Suite, ThreatModel, bind
from robust_jax.methods import Standard

Attack = FrugalAttack | AutoAttack | Suite


class Case(NamedTuple):
    """A network and a ball.

    Attributes:
        network: of `public_networks.FILES`, an ensemble's with its rule.
        eps: Linf radius, of 255.
        num_images: the first test images.
        more_seeds: of AutoAttack, besides the first.
        official: images that the official code attacks; 0 for none.
    """

    network: str
    eps: float
    num_images: int
    more_seeds: int = 0
    official: int = 0


CASES = (
    Case("resnet20", 0.5, 512, more_seeds=2, official=256),
    Case("resnet18", 0.5, 512, more_seeds=2, official=128),
    Case("surrogate1:majority", 0.5, 512),
    Case("parl5:majority", 0.5, 512),
    Case("resnet20", 1, 512),
    Case("resnet20", 0.25, 512),
    Case("surrogate1", 0.5, 512),
    Case("resnet4b", 2, 512),
    Case("resnet2b", 2, 512),
    Case("cnn_a_adv", 2, 512),
    Case("cnn_a_mix", 2, 512),
    Case("resnet18", 0.25, 512),
    Case("resnet18", 8, 512),
)
"""Those that decide first."""


def open_case(setting: Setting, case: Case) -> tuple[Any, Any, np.ndarray]:
    """Returns the view, images and labels."""
    images, labels = load_images(setting.carried, "test")
    images, labels = as_float(images[: case.num_images]), labels[: case.num_images]
    if setting.toy:
        carried = load_network(setting.carried, "resnet20")
        view = bind(carried.config.make(attacks.TASK).views["deployed"], carried.variables)
        decided = jax.jit(lambda view, images: view(images, key=None))(view, images)
        return view, images, np.argmax(decided, axis=1).astype(np.int32)
    view = public_networks.view_of(case.network, setting.carried / "checkpoints")
    return view, images, labels.astype(np.int32)


def attacked(attack: Attack, view: Any, images: Any, labels: Any, seed: int) -> dict[str, Any]:
    """Returns what is left, its passes and seconds."""
    start = time.perf_counter()
    report = attack.report(view, images, labels, key=jax.random.key(seed))
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "passes": sum(int(each.sum()) for each in report.passes),
        "standing": _standing(view, report.images, labels),
        "by its own count": int(np.sum(report.standing)),
    }


def _standing(view: Any, images: Any, labels: np.ndarray) -> int:
    with jax.default_matmul_precision("highest"):
        return int(public_networks.standing_of(view, np.asarray(images), labels).sum())


def compared(setting: Setting, case: Case) -> dict[str, Value]:
    """Returns FrugalAttack's verdict, passes and seconds beside AutoAttack's."""
    view, images, labels = open_case(setting, case)
    frugal, auto = suites(setting, case)
    first, again = (attacked(frugal, view, images, labels, 0) for _ in range(2))
    runs = [attacked(auto, view, images, labels, seed) for seed in range(1 + case.more_seeds)]
    passes = runs[0]["passes"]
    values: dict[str, Value] = {
        "clean": _standing(view, images, labels),
        "Frugal": first["standing"],
        "AutoAttack": sides.names([run["standing"] for run in runs]),
        "by the suites' own counts": sides.names(
            [run["by its own count"] for run in (first, *runs)]
        ),
        "Frugal passes": first["passes"],
        "AutoAttack passes": passes,
        "passes, Frugal / AutoAttack (at most .2)": first["passes"] / passes,
        "Frugal s, compiling": first["seconds"],
        "Frugal s, again": again["seconds"],
        "AutoAttack s, compiling": runs[0]["seconds"],
    }
    if len(runs) > 1:
        values["AutoAttack s, again"] = min(run["seconds"] for run in runs[1:])
    return values


def suites(setting: Setting, case: Case) -> tuple[Attack, Attack]:
    """Returns FrugalAttack and AutoAttack standard."""
    threat = ThreatModel("linf", case.eps / 255)
    if setting.toy:
        short = APGD(threat, num_steps=2)
        frugal = Suite(threat, attacks=(short,), batch_size=case.num_images)
        return frugal, AutoAttack(threat, version="custom", attacks=(short,))
    size = case.num_images
    return FrugalAttack(threat, batch_size=size), AutoAttack(threat, batch_size=size)


def beside_official(setting: Setting, case: Case) -> dict[str, Value]:
    """Returns FrugalAttack's seconds beside the official AutoAttack's on the same network."""
    view, images, labels = open_case(setting, case)
    frugal, _ = suites(setting, case)
    found = [attacked(frugal, view, images, labels, 0) for _ in range(2)]
    values: dict[str, Value] = {
        "Frugal": found[0]["standing"],
        "Frugal s, compiling": found[0]["seconds"],
        "Frugal s, again": found[1]["seconds"],
    }
    if sides.installed("torch", "pyautoattack"):
        config, variables = network_of(setting, case)
        threat = ThreatModel("linf", case.eps / 255)
        torch_case = attacks.Case(case.network, config, variables, threat, apgd_steps=100)
        other = attacks.Torch(torch_case, images, labels)
        other.check(view, images)
        theirs, seconds = attacks.official(other, case.num_images, toy=setting.toy)
        values["official"] = _standing(view, theirs, labels)
        values["official s"] = seconds
        values["official / Frugal, compiling (at least 4)"] = seconds / found[0]["seconds"]
        values["official / Frugal, again"] = seconds / found[1]["seconds"]
    return values


def network_of(setting: Setting, case: Case) -> Any:
    """Returns a single network's plain method and arrays."""
    if setting.toy:
        return load_network(setting.carried, "resnet20")
    parts = public_networks.parts_of(case.network, setting.carried / "checkpoints")
    network, normalization, variables = parts
    return Standard(network=network, normalization=normalization), variables


def tasks(setting: Setting) -> Iterator[Task]:
    """Yields the rows, those that decide first."""
    attacks.find_official(setting)
    cases = [Case("resnet20", 0.5, 16, official=16)] if setting.toy else CASES
    for case in cases:
        name = sides.names((case.network, f"eps {case.eps:g}/255", f"{case.num_images} images"))
        yield Task(
            "images standing under FrugalAttack and AutoAttack standard (seeds)", name,
            functools.partial(compared, setting, case),
        )  # fmt: skip
        if case.official:
            few = case._replace(num_images=case.official)
            name = sides.names((few.network, f"eps {few.eps:g}/255", f"{few.num_images} images"))
            yield Task(
                "FrugalAttack beside the official AutoAttack", name,
                functools.partial(beside_official, setting, few),
            )  # fmt: skip
