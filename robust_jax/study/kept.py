"""What is kept of a study beside its page: every row's records, small enough for a repository.

Of a few rows their best checkpoint too, as one file that `evaluate.py --checkpoint` takes.
"""

import dataclasses
import io
import json
import pathlib
import shutil
import tarfile
from collections.abc import Collection, Iterable, Iterator, Sequence

from robust_jax import formats
from robust_jax.experiment import config
from robust_jax.experiment.checkpoints import load, save_file
from robust_jax.runtime.sharding import make_mesh
from robust_jax.study import steps
from robust_jax.study.run import CHECKPOINT, Task, checkpoint_of

KEPT = (
    "summary.json",
    "evaluation.json",
    "environments.jsonl",
    "seconds.jsonl",
    "metrics.jsonl",
    "records/*.json",
    "records/*.jsonl",
    "certificates/*.json",
    "certificates/*.jsonl",
)
"""Of a row's directory; not the images, the checkpoints and the report."""


def keep(
    spec: str,
    tasks: Iterable[Task],
    out: pathlib.Path,
    into: pathlib.Path,
    *,
    checkpoints: Sequence[str] = (),
    rows: Collection[str] | None = None,
) -> None:
    """Writes an archive for each task that is done: the same bytes of the same records.

    The command that a summary holds becomes the one that repeats the row, and a checkpoint's place
    of the data the file's.

    Args:
        spec: file of the study.
        tasks: of the study.
        out: the study's directory.
        into: directory, made where it is missing.
        checkpoints: rows whose best checkpoint is kept too, of its first seed.
        rows: of the study; what the directory has of any other is removed. None leaves it there.

    Raises:
        ValueError: a summary that a later version wrote, or a checkpoint that is damaged.
    """
    into.mkdir(parents=True, exist_ok=True)
    tasks = sorted(tasks, key=lambda task: task.seed)
    first = {task.name: task for task in reversed(tasks)}
    for task in tasks:
        directory = task.workdir(out)
        if not (directory / "summary.json").is_file():
            continue
        with (
            formats.replacing(archive(into, task)) as partial,
            tarfile.open(partial, "w:xz", format=tarfile.PAX_FORMAT) as made,
        ):
            for name, content in _contents(spec, task, directory):
                member = tarfile.TarInfo(f"{task.name}/seed{task.seed}/{name}")
                member.size = len(content)
                made.addfile(member, io.BytesIO(content))
        source = checkpoint_of(directory)
        if source is None or task != first[task.name]:  # one of an earlier training is not its own
            _named(into, task, ".safetensors").unlink(missing_ok=True)
        elif task.name in checkpoints:
            found = load(source, make_mesh(1))
            data = config.load(f"{spec}:{task.name}").data
            found = found._replace(config=dataclasses.replace(found.config, data=data))
            save_file(_named(into, task, ".safetensors"), found)

    if (out / steps.FILE).is_file():
        shutil.copy(out / steps.FILE, into)
    for file in (*into.glob("*-seed*.tar.xz"), *into.glob("*-seed*.safetensors")):
        name = file.name.rpartition("-seed")[0]
        if rows is not None and name not in rows:
            file.unlink()


def archive(folder: pathlib.Path, task: Task) -> pathlib.Path:
    """Returns a task's archive."""
    return _named(folder, task, ".tar.xz")


def _named(folder: pathlib.Path, task: Task, suffix: str) -> pathlib.Path:
    return folder / f"{task.name}-seed{task.seed}{suffix}"


def restore(folder: pathlib.Path, out: pathlib.Path) -> None:
    """Puts what is kept where a study's directory has it, so that `--show` finds it.

    Rows that start from one whose checkpoint was kept, or are attacked through it, find that too.

    Args:
        folder: with archives.
        out: the study's directory. Rows that are done there stay as they are, and so do times of
            training that were measured there.

    Raises:
        ValueError: the folder has no archive.
        FileExistsError: a row is begun there with other content; nothing was changed then.
    """
    if not any(folder.glob("*-seed*.tar.xz")) and not (folder / steps.FILE).is_file():
        raise ValueError(f"Expected restore={str(folder)!r} to hold ROW-seedN.tar.xz files.")
    contents = {}
    for file in sorted(folder.glob("*-seed*.tar.xz")):
        if (_directory(out, file.name.removesuffix(".tar.xz")) / "summary.json").is_file():
            continue
        with tarfile.open(file, "r:xz") as kept:
            members = [member for member in kept.getmembers() if member.isfile()]
            for member in members:
                content = kept.extractfile(member)
                assert content is not None
                contents[member.name] = content.read()
    for file in sorted(folder.glob("*-seed*.safetensors")):
        directory = _directory(out, file.stem)
        if checkpoint_of(directory) is None:
            contents[str(directory.relative_to(out) / CHECKPOINT)] = file.read_bytes()
    if (folder / steps.FILE).is_file() and not (out / steps.FILE).is_file():
        contents[steps.FILE] = (folder / steps.FILE).read_bytes()
    root = out.resolve()
    for name, content in contents.items():
        place = (out / name).resolve()
        if not place.is_relative_to(root):
            raise ValueError(f"Expected {name!r} of {str(folder)!r} to lie in it.")
        if place.is_file() and place.read_bytes() != content:
            raise FileExistsError(f"Expected {str(out)!r} without another {name!r}.")
    # A row is done where it has a summary: those come last, so that half a restore is gone on with.
    for name in sorted(contents, key=lambda name: name.endswith("summary.json")):
        place, content = out / name, contents[name]
        place.parent.mkdir(parents=True, exist_ok=True)
        with formats.replacing(place) as partial:
            partial.write_bytes(content)


def _directory(out: pathlib.Path, kept_as: str) -> pathlib.Path:
    """Returns the directory of the row that is kept as NAME-seedN."""
    name, _, seed = kept_as.rpartition("-")
    return out / name / seed


def _contents(spec: str, task: Task, directory: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    for pattern in KEPT:
        for file in sorted(directory.glob(pattern)):
            name, content = file.relative_to(directory).as_posix(), file.read_bytes()
            if name == "summary.json":
                summary = formats.read("summary", file)
                summary["command"] = (
                    f"python -m robust_jax.study {spec} --only {task.name} --seeds {task.seed}"
                )
                content = json.dumps(formats.numbered(summary), indent=2).encode()
            yield name, content
