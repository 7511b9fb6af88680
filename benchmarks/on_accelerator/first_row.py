"""A first real row: KAP and its noise-only twin, trained on the carried images, then judged.

Each row is trained once by a short one-cycle schedule, then evaluated by `eval/kap.py:table1` and
`honest` on the first test images. What a run leaves (records, the last row's checkpoint) is packed
as `row.tar.00, ...` in parts that a slow link carries; unpacked beside the carried files, as
`first_row/`, the next run goes on with it: what is trained stays trained, records stay.
"""

import dataclasses
import functools
import io
import json
import pathlib
import shutil
import sys
import tarfile
import time
from collections.abc import Iterator

import numpy as np

from on_accelerator.carried import load_images
from on_accelerator.rows import Setting, Task, Value
from robust_jax import experiment
from robust_jax.data import NPZ, Augmentation, DataConfig, open_data
from robust_jax.evaluation import protocol
from robust_jax.experiment import checkpoints, config
from robust_jax.experiment.config import Config
from robust_jax.models import CNNConfig
from robust_jax.runtime import sharding
from robust_jax.training import Phase, TrainingConfig
from robust_jax.training.optimizers import OptimizerConfig, PiecewiseLinear

ROWS = {"NT(.1)": "kap_cifar10.py:nt_sigma0.1", "KAP(.1)": "kap_cifar10.py"}
EPOCHS, BATCH_SIZE, NUM_TEST = 16.0, 256, 256
PART_BYTES = 15 * 2**20
ROOT = pathlib.Path(__file__).resolve().parents[2]


def archive(setting: Setting) -> pathlib.Path:
    """Returns the archive of images that training reads, written from the carried parts."""
    file = setting.out / "first_row" / "images.npz"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        train, test = (load_images(setting.carried, split) for split in ("train", "test"))
        np.savez(file, x_train=train[0], y_train=train[1], x_test=test[0], y_test=test[1])
    return file


def recipe(setting: Setting, spec: str) -> Config:
    """Returns the paper's configuration under a short one-cycle schedule on the images at hand."""
    paper = config.load(str(ROOT / "configs" / spec))
    epochs, batch_size, method = EPOCHS, BATCH_SIZE, paper.method
    if setting.toy:
        epochs, batch_size = 0.5, 32
        method = dataclasses.replace(method, network=CNNConfig(widths=(16,), strides=(4,)))
    schedule = PiecewiseLinear((0.0, 0.3 * epochs, epochs), (0.1, 1.0, 0.0))
    return dataclasses.replace(
        paper,
        name=f"first_row_{paper.name}",
        data=DataConfig(
            NPZ(str(archive(setting)), num_classes=10),
            augmentation=Augmentation(crop_padding=4, flip=True),
        ),
        method=method,
        optimizer=OptimizerConfig(learning_rate=0.2, weight_decay=5e-4, schedule=schedule),
        training=TrainingConfig(phases=(Phase(epochs, batch_size=batch_size),)),
        # Evaluated by name below; what train.py evaluates at its end is the clean accuracy.
        evaluation=protocol.Evaluation(
            attacks={}, selection=protocol.Selection(num_examples=16 if setting.toy else None),
            batch_size=16 if setting.toy else 512, judges=paper.evaluation.judges,
            measures={}, sanity=False,
        ),
        runtime=dataclasses.replace(paper.runtime, progress=False),
    )  # fmt: skip


def trained(setting: Setting, name: str) -> dict[str, Value]:
    """Trains a row, where that was not done before."""
    from robust_jax.commands import train

    cfg, workdir = recipe(setting, ROWS[name]), _workdir(setting, name)
    start = time.monotonic()
    train.main(train.Arguments(cfg, workdir))
    summary = json.loads((workdir / "summary.json").read_text())
    data = open_data(cfg.data)
    return {
        "seconds": time.monotonic() - start, "epochs": cfg.training.phases[0].epochs,
        "training images": data.task.num_train, "clean": summary["clean_accuracy"],
        "clean of": summary["num_examples"],
    }  # fmt: skip


def evaluated(setting: Setting, name: str, variant: str) -> dict[str, Value]:
    """Evaluates a row by a variant of `eval/kap.py`; goes on where it was stopped."""
    mesh, workdir = sharding.make_mesh(), _workdir(setting, name)
    wanted = config.load_evaluation(str(ROOT / "configs" / "eval" / f"kap.py:{variant}"))
    chosen = dataclasses.replace(wanted.selection, num_examples=NUM_TEST)
    wanted = dataclasses.replace(
        wanted, selection=chosen, batch_size=128, sanity=False, measures={}
    )
    if setting.toy:
        kept = dict(list(wanted.reduced().attacks.items())[:2])
        chosen = dataclasses.replace(wanted.selection, num_examples=8)
        wanted = dataclasses.replace(
            wanted, attacks=kept, printed=None, selection=chosen, batch_size=8
        )
    checkpoint = checkpoints.load(workdir, mesh)
    data, out = open_data(checkpoint.config.data), workdir / "evaluations" / f"kap-{variant}"
    model = experiment.as_model(checkpoint)
    experiment.judge(model, wanted, mesh, data=data, out=out, progress=False)
    summary = json.loads((out / "summary.json").read_text())
    values: dict[str, Value] = {"seconds": summary["wall_seconds"]}
    for judge, found in summary["judges"].items():
        mark = "" if len(summary["judges"]) == 1 else f" ({judge})"
        values[f"clean{mark}"] = found["clean_accuracy"]
        values |= {f"{row}{mark}": share for row, share in found["robust_accuracy"].items()}
        worst = found["worst_case_accuracy"]
        values |= {f"worst case, {ball}{mark}": share for ball, share in worst.items()}
    return values


def pack(out: pathlib.Path) -> None:
    """Packs what the section left, records, summaries and the last row's checkpoint, into parts."""
    stream, root = io.BytesIO(), out / "first_row"
    last = _folder(list(ROWS)[-1])
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as tar:
        for file in sorted(root.rglob("*")):
            path = file.relative_to(root)
            # An optimizer's state is as large as the network; a next run does not need it.
            if not file.is_file() or "optimizer" in path.parts or path.suffix == ".npz":
                continue
            if "checkpoints" in path.parts and path.parts[0] != last:
                continue
            tar.add(file, arcname=str(path))
    whole = stream.getvalue()
    for old in out.glob("row.tar.*"):
        old.unlink()
    for number, start in enumerate(range(0, len(whole), PART_BYTES)):
        (out / f"row.tar.{number:02d}").write_bytes(whole[start : start + PART_BYTES])


def _folder(name: str) -> str:
    return ROWS[name].replace(".py", "").replace(":", "-")


def _workdir(setting: Setting, name: str) -> pathlib.Path:
    return setting.out / "first_row" / _folder(name)


def tasks(setting: Setting) -> Iterator[Task]:
    """Yields the rows."""
    sys.path.append(str(ROOT))
    before = setting.carried / "first_row"
    if before.is_dir():
        shutil.copytree(before, setting.out / "first_row", dirs_exist_ok=True)
    archive(setting)
    for name in ROWS:
        yield Task("training", name, functools.partial(trained, setting, name))
    for variant in ("table1", "honest"):
        for name in ROWS:
            yield Task(
                f"eval/kap.py:{variant}, {NUM_TEST} images", name,
                functools.partial(evaluated, setting, name, variant),
            )  # fmt: skip
