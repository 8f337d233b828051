"""Errors that are not the grid's own, in its words: of the command line, the operating system, and bugs."""

from __future__ import annotations

import errno
import os
import sys
import traceback

import click

from staddle.errors import StaddleError, UsageError

DEBUG_VARIABLE = "STADDLE_DEBUG"
"""Set to anything: a failure that nobody foresaw is printed with its traceback."""

_HINTS = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: a part of it is no directory",
    errno.EISDIR: "name a file",
    errno.EEXIST: "name another path",
    errno.EACCES: "check its owner and mode, or run as the user that may",
    errno.EPERM: "check its owner and mode, or run as the user that may",
    errno.ENOSPC: "make room, then the same command again",
    errno.EDQUOT: "make room or raise the quota, then the same command again",
    errno.EROFS: "its file system is read-only: mount it for writing, or name another path",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
    errno.ENAMETOOLONG: "name a shorter path",
}


def from_click(error: click.ClickException) -> StaddleError:
    """A mistake on the command line."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "staddle"
    words, _, meant = " ".join(error.format_message().split()).partition("Did you mean ")
    words = words.rstrip(" .(")
    hint = f"did you mean {meant.rstrip(')')}" if meant else f"see `{command} --help`"
    return UsageError(words[:1].lower() + words[1:], hint=hint)


def from_os(error: OSError, path: str | bytes | None = None) -> StaddleError:
    """What the operating system refused: path and reason, with the usual way out.

    Args:
        error: what it said.
        path: the user's, where the error names another one (a temporary file beside it).
    """
    reason = (error.strerror or str(error)).lower()
    name = path or error.filename2 or error.filename
    where = os.fsdecode(name) + ": " if isinstance(name, str | bytes) else ""
    return StaddleError(
        where + reason, hint=_HINTS.get(error.errno or 0, "check the path and its permissions")
    )


def from_bug(error: Exception) -> StaddleError:
    """A failure that nobody foresaw. Daemons keep the traceback in their log, people get it when they ask."""
    if os.environ.get(DEBUG_VARIABLE) or sys.argv[1:2] == ["daemon"]:
        traceback.print_exception(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    text = " ".join(str(error).split())[:200]
    return StaddleError(
        f"an error in Staddle itself: {type(error).__name__}{place}" + (f": {text}" if text else ""),
        hint=f"please report it, with what the same command says under {DEBUG_VARIABLE}=1",
        code="INTERNAL",
    )
