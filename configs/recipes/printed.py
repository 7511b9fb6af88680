"""The papers' tables as text, read into the numbers that evaluations show beside ours."""

import textwrap
from collections.abc import Mapping

from robust_jax.evaluation.protocol import Printed


def table(
    title: str, text: str, *, several: Mapping[str, tuple[str, ...]] | None = None, **fields
) -> Printed:
    """Returns the table that a text holds: models below one another, rows of ours beside.

    The first line names our rows, and so do further ones without a model; a model stands in front
    of `|` (a cited one in quotes), "-" is no number; what follows "/" is of top 5.

    Args:
        title: where the paper has it.
        text: the table.
        several: by what a name of the text starts with, what those of ours start with beside which
            its numbers stand: readings of an attack that the paper does not settle.
        fields: other fields of `Printed`.
    """
    heading, *lines = textwrap.dedent(text).strip().splitlines()
    names = heading.split("|")[1].split()
    rows, cited, top5 = {}, [], {}
    for line in lines:
        model, _, numbers = (part.strip() for part in line.partition("|"))
        if not model:
            names += numbers.split()
            continue
        if model.startswith('"'):
            model = model.strip('"')
            cited.append(model)
        found = list(zip(names, numbers.split(), strict=True))
        for place, part in ((rows, 0), (top5, 2)):
            place[model] = {
                row: float(number.partition("/")[part])
                for name, number in found
                for row in _ours(name, several or {})
                if number.partition("/")[part] not in ("", "-")
            }
    five = {model: numbers for model, numbers in top5.items() if numbers}
    return Printed(title, rows, tuple(cited), top5=five, **fields)


def _ours(name: str, several: Mapping[str, tuple[str, ...]]) -> list[str]:
    for start, ours in several.items():
        if name.startswith(start):
            return [one + name.removeprefix(start) for one in ours]
    return [name]
