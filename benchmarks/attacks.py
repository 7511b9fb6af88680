"""Speed of the attacks beside other libraries', same weights and images, in one run.

python benchmarks/attacks.py [--checkpoint FILE] [--batch-size 64] [--suite-images 0]

Prints a table: seconds of the fastest of some interleaved runs, compilation excluded, and the
ratio to ours. FILE is akamaster_resnet20_cifar10.th; without it the same network has random
weights. Rows of libraries that are not installed are left out: foolbox (on our JAX function),
PyTorch and pyautoattack (on a PyTorch copy of the network, in both orders of its memory). With
--suite-images n AutoAttack standard runs once on n images beside the official code, compilation
included (slow).
"""

import dataclasses
import importlib.util
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from timing import compiled_runs, teller

from robust_jax.attacks import APGD, PGD, AutoAttack, ThreatModel, bind
from robust_jax.models import Classifier, Normalization, ResNetConfig, default_layers

EPS = 0.5 / 255
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the benchmark.

    Attributes:
        checkpoint: akamaster_resnet20_cifar10.th.
        batch_size: images per call.
        repeats: interleaved runs of each.
        suite_images: images of the AutoAttack comparison; 0 leaves it out.
        out: file that the table is appended to.
    """

    checkpoint: pathlib.Path | None = None
    batch_size: int = 64
    repeats: int = 3
    suite_images: int = 0
    out: pathlib.Path | None = None


def installed(name):
    """Returns whether a package can be imported."""
    return importlib.util.find_spec(name) is not None


def network(arguments):
    """Returns the view, and the variables that it is bound to."""
    normalization = Normalization(MEAN, STD)
    config = ResNetConfig(depth=20, shortcut="A")
    classifier = Classifier(config.make(10, default_layers()), normalization)
    if arguments.checkpoint:
        from robust_jax.interop.torch import import_state_dict, load_state_dict

        state = load_state_dict(arguments.checkpoint)
        variables = import_state_dict(state, "resnet20_akamaster")[2]
    else:
        variables = classifier.init(
            jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False, deterministic=True
        )

    def logits(variables, images, *, key):
        del key
        return classifier.apply(variables, images, train=False, deterministic=True).logits

    return bind(logits, variables), variables


def torch_network(variables):
    """Returns a PyTorch copy of the network, on [b k h w]."""
    from torch_resnet import torch_copy

    return torch_copy(ResNetConfig(depth=20, shortcut="A"), variables, Normalization(MEAN, STD))


def contenders(view, variables, images, labels):
    """Returns for each attack the functions to time, ours first."""
    threat, key = ThreatModel("linf", EPS), jax.random.key(0)
    images, labels = jnp.asarray(images), jnp.asarray(labels)

    def ours(attack):
        return lambda: attack(view, images, labels, key=key).block_until_ready()

    table = {
        "PGD-20": {"robust_jax": ours(PGD(threat, num_steps=20, step_size=EPS / 4, keep="last"))},
        "APGD-CE (100 steps)": {"robust_jax": ours(APGD(threat))},
    }
    if installed("foolbox"):
        import foolbox

        model = foolbox.JAXModel(jax.jit(lambda x: view(x, key=key)), bounds=(0, 1))
        attack = foolbox.attacks.LinfPGD(steps=20, abs_stepsize=EPS / 4)
        table["PGD-20"]["foolbox (JAX)"] = lambda: jax.block_until_ready(
            attack.run(model, images, labels, epsilon=EPS)
        )
    if not installed("torch"):
        return table
    import torch
    from cpu_torch import pgd

    labels_torch = torch.from_numpy(np.array(labels)).long()
    for name, layout in (
        ("PyTorch", torch.contiguous_format),
        ("PyTorch, channels_last", torch.channels_last),
    ):
        model_torch = torch_network(variables).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        images_torch = torch.from_numpy(np.asarray(images).transpose(0, 3, 1, 2).copy())
        images_torch = images_torch.contiguous(memory_format=layout)
        apart = np.abs(model_torch(images_torch).numpy() - np.asarray(view(images, key=None))).max()
        assert apart < 1e-2, f"the PyTorch copy differs by {apart}"
        given = model_torch, images_torch, labels_torch
        table["PGD-20"][name] = pgd(*given, eps=EPS, step_size=EPS / 4, num_steps=20)
        if installed("pyautoattack"):
            table["APGD-CE (100 steps)"][f"pyautoattack on {name}"] = official_apgd(*given)
    return table


def official_apgd(model, images, labels):
    """Returns a call of the official APGD."""
    from pyautoattack.autopgd_base import APGDAttack

    attack = APGDAttack(model, n_iter=100, norm="Linf", eps=EPS, device="cpu", seed=0)
    return lambda: attack.perturb(images, labels)


def main(arguments: Arguments) -> None:
    """Prints the table."""
    view, variables = network(arguments)
    images = np.random.default_rng(0).uniform(size=(arguments.batch_size, 32, 32, 3))
    images = images.astype(np.float32)
    # The model's own decisions: every image counts as right, so that no attack skips any.
    labels = np.argmax(view(jnp.asarray(images), key=None), axis=1).astype(np.int32)

    say = teller(arguments.out)

    say(f"batch {arguments.batch_size}, jax {jax.__version__} on {jax.default_backend()}")
    say(f"{'attack':22}{'library':40}{'seconds':>9}{'of ours':>9}")
    for attack, runs in contenders(view, variables, images, labels).items():
        for run in runs.values():
            run()  # compiles
        seconds = dict.fromkeys(runs, np.inf)
        for _ in range(arguments.repeats):
            for library, run in runs.items():
                began = time.perf_counter()
                run()
                seconds[library] = min(seconds[library], time.perf_counter() - began)
        for library, value in seconds.items():
            say(f"{attack:22}{library:40}{value:9.2f}{value / seconds['robust_jax']:9.2f}")
    if arguments.suite_images:
        suite(view, variables, images, labels, arguments, say)


def suite(view, variables, images, labels, arguments, say):
    """Prints AutoAttack standard's wall time, ours and the official code's."""
    images, labels = images[: arguments.suite_images], labels[: arguments.suite_images]
    threat = ThreatModel("linf", EPS)
    compiled = compiled_runs()
    began = time.perf_counter()
    report = AutoAttack(threat, batch_size=arguments.batch_size).report(
        view, images, labels, key=jax.random.key(0)
    )
    ours = time.perf_counter() - began
    num_compiled = compiled_runs() - compiled
    # Two batch sizes of each of four attacks at most, whatever the number of images.
    assert num_compiled <= 8, num_compiled
    say(
        f"AutoAttack standard, {len(images)} images: robust_jax {ours:.0f} s, "
        f"{report.standing.sum()} standing, {num_compiled} compilations"
    )
    if installed("torch") and installed("pyautoattack"):
        from attack_referees import official

        began = time.perf_counter()
        found = official(
            torch_network(variables),
            images,
            labels,
            threat,
            "standard",
            batch_size=arguments.batch_size,
        )
        theirs = time.perf_counter() - began
        left = np.argmax(view(jnp.asarray(found), key=None), axis=1) == labels
        say(f"    pyautoattack {theirs:.0f} s ({theirs / ours:.2f} of ours), {left.sum()} standing")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
