"""Opens the root of a restore, which the user names: it may be reached over symlinks."""

from __future__ import annotations

import contextlib
import os

from staddle.client.scan import reason
from staddle.errors import StaddleError

WALK = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
"""How a directory is opened that is only gone through."""


def open_root(root: bytes, *, make: bool) -> int | None:
    """The root; its own path may lead over symlinks, and be of any length. Raises StaddleError."""
    fd = os.open(b"/", WALK)
    try:
        for name in filter(None, root.split(b"/")):
            try:
                inner = os.open(name, WALK, dir_fd=fd)
            except FileNotFoundError:
                if not make:
                    os.close(fd)
                    return None
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o777, dir_fd=fd)
                inner = os.open(name, WALK, dir_fd=fd)
            os.close(fd)
            fd = inner
    except OSError as error:
        os.close(fd)
        raise StaddleError(
            f"cannot restore to {os.fsdecode(root)!r}: {reason(error)}", hint="name a directory you can write"
        ) from error
    return fd
