"""How an evaluation is made once more: commands that can be copied, and what it ran on."""

import contextlib
import json
import pathlib
import shlex
from collections.abc import Iterator, Mapping

from robust_jax import formats
from robust_jax.evaluation.report.page import command, table
from robust_jax.evaluation.summary import Summary
from robust_jax.runtime.wording import text

NO_COMMANDS = ("ipykernel_launcher.py", "-c")
"""Of a notebook and of a line of Python: how the process was started says nothing."""


def repeat(summary: Summary, file: pathlib.Path) -> str:
    """Returns the commands that repeat an evaluation, and on what it ran.

    Args:
        summary: with the command that made it, if any.
        file: of the page; where it lies in an evaluation's directory, that is named.
    """
    parts = [
        f'<div class="together"><p>{text(words)}</p>{command(line)}</div>'
        for words, line in _commands(summary, file.parent)
    ]
    environment = summary.get("environment")
    if environment is not None:
        rows = [[text(_named(name)), text(_plainly(value))] for name, value in environment.items()]
        parts.append(f"<p>The numbers were computed on:</p>{table(['', ''], rows)}")
    if summary.get("earlier_environments"):
        parts.append("<p>Some of them earlier, elsewhere: see <code>environments.jsonl</code>.</p>")
    return "".join(parts)


def _commands(summary: Summary, directory: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Yields what a command does, and the command."""
    line = summary.get("command", "")
    words = shlex.split(line)
    started = len(words) > 1 and pathlib.Path(words[1]).name not in NO_COMMANDS
    if started:
        yield "As it was made; what is finished is kept, and only what is missing is made:", line
    if not _is_of(summary, directory):  # a page that was written elsewhere than the evaluation
        return
    if (directory / "checkpoints").is_dir():
        yield (
            "The checkpoint once more, without training, in a directory of its own:",
            shlex.join(
                ["python", "-m", "robust_jax.commands.evaluate", "--checkpoint", str(directory)]
            ),
        )
    yield (
        "Beside another evaluation, whose directory takes the place of OTHER, in one table:",
        shlex.join(["python", "-m", "robust_jax.evaluation.compare", str(directory), "OTHER"]),
    )


def _is_of(summary: Summary, directory: pathlib.Path) -> bool:
    """Returns whether a directory holds the evaluation that a summary is of."""
    file = directory / "summary.json"
    if not file.is_file():
        return False
    with contextlib.suppress(ValueError):  # torn, or of another version
        kept = formats.read("summary", file)
        ours, theirs = (json.dumps([one.get(name) for name in summary], sort_keys=True)
                        for one in (summary, kept))  # fmt: skip
        return ours == theirs
    return False


def _plainly(value: object) -> str:
    """Returns what an environment holds, without brackets."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_named(name)} {_plainly(one)}" for name, one in value.items())
    return str(value)


def _named(name: str) -> str:
    return name.replace("num_", "number of ")
