"""Descriptors: how many this process may have, and what to do while none is free."""

from __future__ import annotations

import contextlib
import errno
import sys
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

WANTED = 65536
_WANTED_ANYWHERE = 10240  # what macOS grants where it names no limit (OPEN_MAX)
_LOOK_S = 0.05
_NONE_FREE = frozenset({errno.EMFILE, errno.ENFILE})


def none_free(error: OSError) -> bool:
    """Whether it says that no descriptor is free: nothing was done, and another moment may have one."""
    return error.errno in _NONE_FREE


def when_free(step: Callable[[], T], wait_s: float) -> T:
    """Do a step that needs a descriptor and can't be left out any more; try it again while none is free.

    Blocks, for at most about `wait_s`. Raises: what the step raises.
    """
    end_s = time.monotonic() + wait_s
    while True:
        try:
            return step()
        except OSError as error:
            if not none_free(error) or time.monotonic() >= end_s:
                raise
        time.sleep(_LOOK_S)


if sys.platform == "win32":

    def raise_limit() -> None:
        """Windows has no such limit per process."""

else:
    import resource

    def raise_limit() -> None:
        """Let this process have as many descriptors as its administrator allows, up to `WANTED`.

        A shell's usual 1024 are less than the links that a daemon takes. The hard limit stays as it is.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            return
        for wanted in (WANTED, _WANTED_ANYWHERE):
            count = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            if count <= soft:
                return
            with contextlib.suppress(ValueError, OSError):  # the kernel's own limit is lower
                resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
                return
