"""Does the accelerator compute what the CPU does? Attacks, five steps of every method, bounds."""

import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
import optax
from flax import traverse_util

from on_accelerator import sides
from on_accelerator.carried import TASK, as_float, load_images, load_network
from on_accelerator.rows import Setting, Task, Value
from robust_jax import training
from robust_jax.attacks import APGD, PGD, ThreatModel, bind
from robust_jax.certify import crown_margins, smallest_margin
from robust_jax.data import Augmentation, DataConfig, Digits, eval_batches, open_data
from robust_jax.methods import MethodConfig
from robust_jax.runtime import sharding
from robust_jax.training import TrainingConfig

Arrays = Mapping[str, np.ndarray]

EPS = 0.5 / 255
RTOL = 1e-3
"""Of losses and parameters after five float32 steps. One rounding is 6e-8; a step amplifies it some
tenfold (divisions by a batch's deviation), and a ReLU whose input is zero but for rounding moves a
gradient by its share of the batch."""

CROWN_MARGINS = {
    "1/255": (0.0656, 3.1830, -0.6929, -0.4269, 0.0606, 1.0537, 2.8328, 0.1608),
    "2/255": (-1.3403, 1.8308, -2.2305, -2.2551, -2.4127, -0.0140, 1.8463, -0.3511),
}
"""Smallest margins of ResNet-2B on the first test images, by auto_LiRPA's CROWN."""


def methods(toy: bool) -> dict[str, MethodConfig]:
    """Returns the small networks of the contract test, by method."""
    from tests.methods.test_contract import METHODS

    return {name: METHODS[name] for name in ("kap", "parl")} if toy else METHODS


def attacked(setting: Setting, name: str) -> dict[str, np.ndarray]:
    """Returns the smallest logit margins of the public ResNet-20 on clean or attacked images."""
    network = load_network(setting.carried, "resnet20")
    images, labels = load_images(setting.carried, "test")
    size, num_steps = (8, 3) if setting.toy else (512, 100)
    images, labels = as_float(images[:size]), labels[:size].astype(np.int32)
    view = bind(network.config.make(TASK).views["deployed"], network.variables)
    threat = ThreatModel("linf", EPS)
    attacks = {
        "PGD-20": PGD(threat, num_steps=min(20, num_steps), step_size=EPS / 4, keep="last"),
        "APGD-CE": APGD(threat, num_steps=num_steps),
    }

    @jax.jit
    def margins(view, images, labels):
        found = images
        if name != "clean":
            found = attacks[name](view, images, labels, key=jax.random.key(0))
        logits = view(found, key=jax.random.key(0))
        own = jax.nn.one_hot(labels, logits.shape[1], dtype=bool)
        best = jax.numpy.where(own, -jax.numpy.inf, logits).max(axis=1)
        return jax.numpy.where(own, logits, -jax.numpy.inf).max(axis=1) - best

    batch_size = 8 if setting.toy else 128
    parts = [slice(i, i + batch_size) for i in range(0, size, batch_size)]
    return {"margin": np.concatenate([margins(view, images[p], labels[p]) for p in parts])}


def five_steps(config: MethodConfig) -> dict[str, np.ndarray]:
    """Returns losses and parameters of five SGD steps on 32 digits."""
    data = open_data(DataConfig(Digits()))
    method, mesh = config.make(data.task), sharding.make_mesh(1)
    optimizer = optax.sgd(0.05, momentum=0.9)
    step = training.make_train_step(method, optimizer, TrainingConfig(), Augmentation(), mesh)
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
    state = training.init_state(variables, optimizer, TrainingConfig(), mesh)
    batch, losses = next(eval_batches(data.train, 32)), []
    for _ in range(5):
        state, metrics = step(state, batch, jax.random.key(0))
        losses.append(float(metrics["loss"]))
    flat = traverse_util.flatten_dict(jax.device_get(state.variables), sep="/")
    return {"loss": np.asarray(losses), **flat}


def bounds(setting: Setting, eps: str) -> dict[str, np.ndarray]:
    """Returns CROWN's smallest margins of ResNet-2B on the first test images."""
    network = load_network(setting.carried, "resnet2b")
    images, labels = load_images(setting.carried, "test")
    size = 1 if setting.toy else len(CROWN_MARGINS[eps])
    images, labels = as_float(images[:size]), labels[:size].astype(np.int32)
    view = network.config.make(TASK).views["deployed"]
    logits = jax.tree_util.Partial(
        lambda variables, images: view(variables, images, key=None), network.variables
    )
    intermediate = "interval" if setting.toy else "crown"
    margins = crown_margins(
        logits, images, labels, float(eps.split("/")[0]) / 255, intermediate=intermediate
    )
    return {"margin": np.asarray(smallest_margin(margins, labels))}


def measured(setting: Setting) -> dict[str, Callable[[], dict[str, np.ndarray]]]:
    """Returns every call whose arrays are compared, by name."""
    calls: dict[str, Callable[[], dict[str, np.ndarray]]] = {
        f"CROWN {eps}": functools.partial(bounds, setting, eps) for eps in CROWN_MARGINS
    }
    calls |= {
        name: functools.partial(attacked, setting, name) for name in ("clean", "PGD-20", "APGD-CE")
    }
    return calls | {
        f"steps/{name}": functools.partial(five_steps, config)
        for name, config in methods(setting.toy).items()
    }


def write_reference(setting: Setting) -> None:
    """Adds to reference.npz what it lacks of the CPU's numbers, at exact float32."""
    file = setting.carried / "reference.npz"
    found = dict(_read(file)) if file.is_file() else {}
    for name, call in measured(setting).items():
        if any(key.startswith(f"{name}|") for key in found):
            continue
        with jax.default_matmul_precision("highest"):
            found |= {f"{name}|{key}": value for key, value in call().items()}
        np.savez_compressed(file, **found)  # pyright: ignore[reportArgumentType]
        print(f"reference: {name}", flush=True)


def tasks(setting: Setting) -> Iterator[Task]:
    """Yields the rows."""
    reference = _read(setting.carried / "reference.npz")

    def run(name: str, precision: str, call: Callable[[], Arrays]) -> dict[str, Value]:
        with jax.default_matmul_precision(sides.PRECISIONS[precision]):
            found = call()
        expected = {
            key.removeprefix(f"{name}|"): value
            for key, value in reference.items()
            if key.startswith(f"{name}|")
        }
        if name.startswith("steps/"):
            return _compare_steps(found, expected)
        if name.startswith("CROWN"):
            return _compare_margins(found["margin"], expected["margin"], name.split()[1])
        right, other = found["margin"] > 0, expected["margin"] > 0
        return {
            "robust": int(right.sum()), "on the CPU": int(other.sum()),
            "images that differ": int((right != other).sum()), "of": len(right),
        }  # fmt: skip

    wanted = [
        (name, precision, call)
        for precision in sides.PRECISIONS
        for name, call in measured(setting).items()
        if precision == "exact" or not name.startswith("steps/")  # compared in float32
    ]
    for name, precision, call in wanted:
        kinds = {"steps": "five float32 steps", "CROWN": "CROWN margins of ResNet-2B"}
        kind = name.replace("/", " ").split()[0]
        label = name.removeprefix("steps/")
        yield Task(
            kinds.get(kind, "public ResNet-20, right images"),
            label if kind == "steps" else sides.names((label, precision)),
            functools.partial(run, name, precision, call),
        )


def _compare_steps(found: Arrays, expected: Arrays) -> dict[str, Value]:
    def apart(name: str) -> float:
        size = max(float(np.abs(expected[name]).max()), 1e-3)
        return _largest(found[name] - expected[name]) / size

    loss = apart("loss")
    worst = max((name for name in expected if name != "loss"), key=apart)
    return {
        "loss, largest relative difference": loss,
        "arrays": apart(worst),
        "worst": worst,
        f"within {RTOL:g}": max(loss, apart(worst)) <= RTOL,
    }


def _compare_margins(found: np.ndarray, expected: np.ndarray, eps: str) -> dict[str, Value]:
    values: dict[str, Value] = {"from the CPU's": _largest(found - expected)}
    if len(found) == len(CROWN_MARGINS[eps]):
        published = np.asarray(CROWN_MARGINS[eps])
        values["from auto_LiRPA's"] = _largest(found - published)
        tight = found >= published - 2e-3 * np.abs(published)
        values["looser by more than 2e-3 relative"] = int(np.sum(~tight))
    return values


def _largest(differences: np.ndarray) -> float:
    """Returns the largest absolute value, infinity where one is not finite."""
    return float(np.abs(np.nan_to_num(differences, nan=np.inf)).max())


def _read(file: pathlib.Path) -> Arrays:
    with np.load(file) as found:
        return {name: found[name] for name in found.files}
