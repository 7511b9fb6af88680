"""Attacks beside PyTorch and the official code on the same device: PGD-20, APGD-CE, AutoAttack."""

import dataclasses
import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from on_accelerator import sides
from on_accelerator.carried import TASK, as_float, load_images, load_network
from on_accelerator.rows import Setting, Task, Value
from robust_jax.attacks import APGD, PGD, AutoAttack, ThreatModel, bind
from robust_jax.methods import Standard
from robust_jax.models import ResNetConfig

PGD_STEPS = 20


class Case(NamedTuple):
    """A network under attack.

    Attributes:
        name: of the network.
        config: the plain method of it.
        variables: its arrays.
        threat: the ball.
        apgd_steps: of APGD; the large network takes fewer, for the time's sake.
    """

    name: str
    config: Standard
    variables: Any
    threat: ThreatModel
    apgd_steps: int

    def view(self, dtype: str = "float32") -> Any:
        """Returns the view to attack, with activations of a dtype."""
        method = dataclasses.replace(self.config, dtype=dtype).make(TASK)
        return bind(method.views["deployed"], self.variables)

    def attack(self, name: str) -> PGD | APGD:
        """Returns "PGD-20" or "APGD-CE"."""
        if name == "APGD-CE":
            return APGD(self.threat, num_steps=self.apgd_steps)
        step_size = self.threat.eps / 4
        return PGD(self.threat, num_steps=PGD_STEPS, step_size=step_size, keep="last")


def cases(setting: Setting) -> list[Case]:
    """Returns the public ResNet-20, and a ResNet-18 of width 64 with random weights."""
    carried = load_network(setting.carried, "resnet20")
    small = Case("ResNet-20", *carried, ThreatModel("linf", 0.5 / 255), 10 if setting.toy else 100)
    if setting.toy:
        return [small]
    config = Standard(network=ResNetConfig(depth=18))
    variables = jax.jit(lambda key: config.make(TASK).init(key=key))(jax.random.key(0))
    return [small, Case("ResNet-18", config, variables, ThreatModel("linf", 8 / 255), 30)]


def batch_of(setting: Setting, case: Case, size: int) -> tuple[Any, Any]:
    """Returns test images and the network's own decisions, so that every image counts as right."""
    images, _ = load_images(setting.carried, "test")
    images = as_float(images[:size])
    logits = jax.jit(lambda view, images: view(images, key=None))(case.view(), images)
    return images, jnp.argmax(logits, axis=1).astype(jnp.int32)


class Torch:
    """The same network, images and labels in PyTorch."""

    def __init__(self, case: Case, images: Any, labels: Any) -> None:
        import torch
        from torch_resnet import channel_first, torch_copy, torch_pgd

        network, normalization = case.config.network, case.config.normalization
        self.case, self.device = case, sides.torch_device()
        self.model = torch_copy(network, case.variables, normalization).to(self.device)
        self.images = channel_first(images).to(self.device)
        self.labels = torch.from_numpy(np.array(labels)).long().to(self.device)
        self._pgd = torch_pgd

    def check(self, view: Any, images: Any) -> None:
        """Asserts that both networks give the same logits."""
        import torch

        with torch.no_grad(), sides.torch_precision("exact"):
            theirs = self.model(self.images[:8]).cpu().numpy()
        with jax.default_matmul_precision("highest"):
            ours = np.asarray(jax.jit(lambda v, i: v(i, key=None))(view, images[:8]))
        apart = np.abs(theirs - ours).max() / np.abs(ours).max()
        assert apart < 1e-3, f"the PyTorch copy differs by {apart}"

    def pgd(self, precision: str, variant: str = "plain") -> Callable[[], None]:
        """Returns PGD-20 with a variant of the network: how a user speeds it up."""
        import torch

        model: Any = self.model
        images = self.images
        if variant in ("channels_last", "bfloat16 AMP", "compiled, bfloat16 AMP"):
            model = model.to(memory_format=torch.channels_last)
            images = images.contiguous(memory_format=torch.channels_last)
        else:
            model = model.to(memory_format=torch.contiguous_format)
        if "compiled" in variant:
            model = torch.compile(model)
        network = model
        if "AMP" in variant:

            def network(x: Any) -> Any:
                with torch.autocast(self.device, dtype=torch.bfloat16):
                    return model(x).float()

        eps = self.case.threat.eps
        return sides.torch_call(
            lambda: self._pgd(
                network, images, self.labels, eps=eps, step_size=eps / 4, num_steps=PGD_STEPS
            ),
            precision,
        )

    def apgd(self, precision: str) -> Callable[[], None]:
        """Returns the official APGD-CE."""
        from pyautoattack.autopgd_base import APGDAttack

        attack = APGDAttack(
            self.model, n_iter=self.case.apgd_steps, norm="Linf", eps=self.case.threat.eps,
            device=self.device, seed=0,
        )  # fmt: skip
        return sides.torch_call(lambda: attack.perturb(self.images, self.labels), precision)


def tasks(setting: Setting) -> Iterator[Task]:
    """Yields the rows, those that decide first."""
    find_official(setting)
    sizes = (8,) if setting.toy else (256, 1024)
    found = {case.name: case for case in cases(setting)}
    data = functools.cache(lambda name, size: batch_of(setting, found[name], size))
    torch_of = functools.cache(lambda name, size: Torch(found[name], *data(name, size)))

    def ours(name: str, size: int, attack: str, precision: str, dtype: str = "float32"):
        attack_fn, (images, labels) = found[name].attack(attack), data(name, size)

        def call(view, images, labels):
            return attack_fn(view, images, labels, key=jax.random.key(0))

        return sides.compiled(call, precision, found[name].view(dtype), images, labels)

    def run(name: str, size: int, attack: str, precision: str) -> dict[str, Value]:
        mine = ours(name, size, attack, precision)
        calls: dict[str, Any] = {"ours": mine.run}
        needed = ("torch", "pyautoattack") if attack == "APGD-CE" else ("torch",)
        values: dict[str, Value] = {}
        if sides.installed(*needed):
            other = torch_of(name, size)
            other.check(found[name].view(), data(name, size)[0])
            calls["theirs"] = other.pgd(precision) if attack == "PGD-20" else other.apgd(precision)
        seconds = sides.in_turn(calls, 2 if attack == "APGD-CE" else 3)
        values["ours, images/s"] = size / seconds["ours"]
        if "theirs" in seconds:
            values["theirs, images/s"] = size / seconds["theirs"]
            values["ours / theirs"] = seconds["theirs"] / seconds["ours"]
        values |= {"compile s": mine.seconds, "ours MiB": sides.mebibytes(mine.num_bytes)}
        if "theirs" in seconds:
            values["theirs MiB"] = sides.mebibytes(sides.torch_peak_bytes(calls["theirs"]))
        return values

    def ways(name: str, size: int) -> dict[str, Value]:
        calls = {
            f"ours, {dtype}": ours(name, size, "PGD-20", "default", dtype).run
            for dtype in ("float32", "bfloat16")
        }
        speed: dict[str, Value] = {
            way: size / seconds for way, seconds in sides.in_turn(calls, 3).items()
        }
        if not sides.installed("torch"):
            return speed
        wanted = ["plain", "channels_last", "bfloat16 AMP"]
        # One after another: they convert one network in place.
        for way in wanted + ([] if setting.toy else ["compiled", "compiled, bfloat16 AMP"]):
            try:
                seconds = sides.in_turn({way: torch_of(name, size).pgd("default", way)}, 3)
            except Exception as error:  # a compiler that is missing on the node
                speed[way] = type(error).__name__
            else:
                speed[way] = size / seconds[way]
        return speed

    steps = ", ".join(f"{case.name} {case.apgd_steps} steps" for case in found.values())
    titles = {
        "PGD-20": "PGD-20 beside PyTorch (contiguous, eager)",
        "APGD-CE": f"APGD-CE beside pyautoattack ({steps})",
    }
    for precision, size in itertools.product(("default", "exact"), sizes):
        for name, attack in itertools.product(found, titles):
            label = sides.names((name, f"batch {size}", precision))
            call = functools.partial(run, name, size, attack, precision)
            yield Task(titles[attack], label, call)
        if precision == "default" and size == sizes[0]:
            yield Task(
                "AutoAttack standard",
                f"ResNet-20, {16 if setting.toy else 256} images, default precision",
                functools.partial(suite, setting, found["ResNet-20"]),
            )
            for name in found:
                yield Task(
                    "PGD-20, every way of PyTorch's (images/s, default precision)",
                    sides.names((name, f"batch {size}")),
                    functools.partial(ways, name, size),
                )


def suite(setting: Setting, case: Case) -> dict[str, Value]:
    """Returns AutoAttack standard on the public network's test images, each side's first run.

    Ours compiles in it, theirs tries cuDNN's algorithms; ours is run again, compiled.
    """
    size = 16 if setting.toy else 256
    images, labels = load_images(setting.carried, "test")
    images, labels = as_float(images[:size]), labels[:size].astype(np.int32)
    attack = AutoAttack(case.threat, batch_size=size)
    if setting.toy:
        custom = (APGD(case.threat, num_steps=5),)
        attack = AutoAttack(case.threat, version="custom", attacks=custom, batch_size=size)
    values: dict[str, Value] = {}
    for heading in ("ours s, compiling", "ours s, again"):
        start = time.perf_counter()
        report = attack.report(case.view(), images, labels, key=jax.random.key(0))
        values[heading] = time.perf_counter() - start
    values["ours, standing"] = int(report.standing.sum())
    for stage in report.stages:
        values[f"{type(stage.attack).__name__} s"] = stage.seconds
    if sides.installed("torch", "pyautoattack"):
        found, values["theirs s"] = official(Torch(case, images, labels), size, toy=setting.toy)
        values["theirs / ours, compiling"] = values["theirs s"] / values["ours s, compiling"]
        values["theirs / ours, again"] = values["theirs s"] / values["ours s, again"]
        logits = jax.jit(lambda v, i: v(i, key=None))(case.view(), jnp.asarray(found))
        values["theirs, standing"] = int(np.sum(np.argmax(logits, axis=1) == labels))
    return values


def find_official(setting: Setting) -> None:
    """Makes the official attack that was carried importable, where none is installed."""
    if (setting.carried / "pyautoattack").is_dir() and not sides.installed("pyautoattack"):
        sys.path.append(str(setting.carried))


def official(other: Torch, batch_size: int, *, toy: bool) -> tuple[np.ndarray, float]:
    """Returns the images of the official AutoAttack standard [b h w k] and its seconds."""
    from pyautoattack import AutoAttack as Official

    fields = {"version": "custom", "attacks": ["apgd-ce"]} if toy else {}
    attack = Official(
        other.model, norm="Linf", eps=other.case.threat.eps, seed=0, device=other.device, **fields
    )
    attack.verbose = False
    attack.apgd.n_restarts = attack.fab.n_restarts = 1
    if toy:
        attack.apgd.n_iter = 5
    start = time.perf_counter()
    with sides.torch_precision("default"):
        found = attack.run_standard_evaluation(other.images, other.labels, batch_size=batch_size)
    found = found[0] if isinstance(found, tuple) else found
    seconds = time.perf_counter() - start
    return np.asarray(found.detach().cpu()).transpose(0, 2, 3, 1), seconds
