"""How numbers are written, in the terminal and on pages alike."""

NOTHING = "-"
"""Where there is no number."""


def percent(share: float | None) -> str:
    """Returns a fraction in percent; a dash for none."""
    return NOTHING if share is None else f"{100 * share:.2f} %"
