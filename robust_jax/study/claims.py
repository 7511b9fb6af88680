"""Which machine works on which row, where several share a directory."""

import contextlib
import json
import os
import pathlib
import platform
import threading
import time
from collections.abc import Iterator

BEAT = 30.0
"""Seconds between two signs of life."""

STALE = 600.0
"""Seconds after which a claim without a sign of life is anyone's."""


@contextlib.contextmanager
def claimed(file: pathlib.Path) -> Iterator[bool]:
    """Yields whether this process holds a claim, and keeps it alive until the end.

    A claim is a file that only one process can make. Its holder touches it every `BEAT` seconds;
    one that was not touched for `STALE` seconds is of a process that is gone.

    Args:
        file: of the claim.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if time.time() - file.stat().st_mtime > STALE:
            # Renamed first: of two who find it stale, one alone takes it away.
            gone = file.with_name(f"{file.name}.{platform.node()}.{os.getpid()}")
            file.rename(gone)
            gone.unlink()
    try:
        with file.open("x") as opened:
            json.dump({"host": platform.node(), "process": os.getpid()}, opened)
    except FileExistsError:
        yield False
        return
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(file, ended), daemon=True)
    beating.start()
    try:
        yield True
    finally:
        ended.set()
        beating.join()
        file.unlink(missing_ok=True)


def holder(file: pathlib.Path) -> str:
    """Returns who holds a claim, in words."""
    try:
        return str(json.loads(file.read_text())["host"])
    except (OSError, ValueError, KeyError):
        return "another process"


def _beat(file: pathlib.Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(file)
