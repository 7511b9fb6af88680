"""One process alone in a directory, also where several machines share it.

A lock is the operating system's (`flock`): it ends with the process that holds it, however that
ends, so that nothing is left to clear away. Where a file system knows no locks, none are taken.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import platform
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils


@contextlib.contextmanager
def locked(file: pathlib.Path) -> Iterator[bool]:
    """Yields whether this process, and no other, holds a lock until the end.

    Args:
        file: which stands for it; made where there is none, and left.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # the file system knows no locks
            pass
        opened.truncate(0)
        json.dump({"host": platform.node(), "process": os.getpid()}, opened)
        opened.flush()
        yield True


def is_locked(file: pathlib.Path) -> bool:
    """Returns whether some process holds a lock at the moment."""
    if not file.is_file():
        return False
    with file.open() as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def holder(file: pathlib.Path) -> str:
    """Returns who holds a lock, in words."""
    try:
        found = json.loads(file.read_text())
        return f"process {found['process']} of {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


@contextlib.contextmanager
def alone(file: pathlib.Path) -> Iterator[None]:
    """Holds a lock until the end; of several processes of one program, the first holds it for all.

    Args:
        file: which stands for it, in the directory that is about to be written.

    Raises:
        ValueError: another program holds it.
    """
    with contextlib.ExitStack() as stack:
        mine = stack.enter_context(locked(file)) if jax.process_index() == 0 else False
        if jax.process_count() > 1:
            mine = bool(multihost_utils.broadcast_one_to_all(np.asarray(mine)))
        if not mine:
            raise ValueError(
                f"Expected {str(file.parent)!r} to be written by one program alone; "
                f"{holder(file)} works there."
            )
        yield
