"""The library's configurations, a line each: what `--list` prints."""

import inspect
from typing import NamedTuple

import rich.markup
import rich.table

from robust_jax.experiment import config
from robust_jax.runtime import logging


class Entry(NamedTuple):
    """A file of the library.

    Attributes:
        spec: how the command line names it.
        what: the first line of its docstring.
        variants: `SPEC:VARIANT` names each, but "default", which needs no name.
    """

    spec: str
    what: str
    variants: tuple[str, ...]


def entries(*, evaluations: bool) -> list[Entry]:
    """Returns the files that give evaluations, or those that give what is trained.

    Example:
        >>> from robust_jax.experiment import catalogue
        >>> "eval/kap" in [entry.spec for entry in catalogue.entries(evaluations=True)]
        True
    """
    folders = ("eval",) if evaluations else (".", "studies")
    found = []
    for file in (file for folder in folders for file in (config.LIBRARY / folder).glob("*.py")):
        if file.stem != "__init__":
            module, _ = config.load_module(str(file))
            words = (inspect.getdoc(module) or "").splitlines() or [""]
            spec = str(file.resolve().relative_to(config.LIBRARY).with_suffix(""))
            variants = tuple(name for name in module.VARIANTS if name != "default")
            found.append(Entry(spec, words[0], variants))
    return sorted(found)


def show(*, evaluations: bool) -> None:
    """Prints them."""
    table = rich.table.Table("configuration", "what", "variants (NAME:VARIANT)", show_lines=True)
    for entry in entries(evaluations=evaluations):
        table.add_row(*map(rich.markup.escape, (entry.spec, entry.what, ", ".join(entry.variants))))
    logging.console.print(table)
