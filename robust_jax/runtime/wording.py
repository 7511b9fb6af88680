"""How numbers are written, in the terminal and on pages alike."""

import html

NOTHING = "-"
"""Where there is no number."""


def percent(share: float | None) -> str:
    """Returns a fraction in percent; a dash for none."""
    return NOTHING if share is None else f"{100 * share:.2f} %"


def gibibytes(num_bytes: int) -> str:
    """Returns a size of memory."""
    return f"{num_bytes / 2**30:.2f} GiB"


def text(words: object) -> str:
    """Returns words as HTML."""
    return html.escape(str(words))
