"""The papers' tables as text, read into the numbers that evaluations show beside ours."""

import textwrap

from robust_jax.protocol import Printed


def table(name: str, text: str, **fields) -> Printed:
    """Returns the table that a text holds: models below one another, rows of ours beside.

    The first line names our rows, and so do further ones without a model; a model stands in front
    of `|` (a cited one in quotes), "-" is no number.

    Args:
        name: where the paper has it.
        text: the table.
        fields: other fields of `Printed`.
    """
    heading, *lines = textwrap.dedent(text).strip().splitlines()
    names = heading.split("|")[1].split()
    rows, cited = {}, []
    for line in lines:
        model, _, numbers = (part.strip() for part in line.partition("|"))
        if not model:
            names += numbers.split()
            continue
        if model.startswith('"'):
            model = model.strip('"')
            cited.append(model)
        found = zip(names, numbers.split(), strict=True)
        rows[model] = {row: float(number) for row, number in found if number != "-"}
    return Printed(name, rows, tuple(cited), **fields)
