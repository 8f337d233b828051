"""A directory under construction: after a power cut it is finished, or whoever makes it begins anew.

    FINAL.new        there before the first file; its rename to FINAL, the last step, finishes the place
    FINAL.new.lock   held by the process that builds

So a place without its FINAL is only taken for the rest of a cut-off attempt if that attempt has said so: a
grid whose configuration was lost keeps its keys.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from staddle.errors import Locked
from staddle.platform.durable import FILES, fsync_dir, make_directories, write_file_durable
from staddle.platform.lock import FileLock

_NOTE = b"# under construction: if this was cut off, the same command may be run again\n"


def marker_of(final: str) -> str:
    """The file that says that a place is being made."""
    return final + ".new"


@contextmanager
def under_construction(
    final: str, check: Callable[[], None], clear: Callable[[], None]
) -> Iterator[Callable[[bytes], None]]:
    """Claim the directory of `final`; gives the function that writes it and so finishes the place, durably.

    Without that call the marker goes again, unless the process dies.

    Args:
        final: the file that makes the place count.
        check: raises if the place is taken.
        clear: removes what a cut-off attempt has left; called only if one has.

    Raises:
        Locked: another process builds there now; and what `check` raises.
        OSError: the file system.
    """
    if os.path.exists(final):
        fsync_dir(os.path.dirname(final))  # who says that it is there has to be right after a power cut, too
    check()
    make_directories(os.path.dirname(final))
    marker = marker_of(final)
    lock = FileLock(marker + ".lock")
    if not lock.acquire():
        raise Locked(f"another process makes {final} now", hint="wait for it, or take another place")
    try:
        check()
        if os.path.exists(marker):
            clear()
        write_file_durable(marker, _NOTE)

        def finish(text: bytes) -> None:
            write_file_durable(marker, text)
            FILES.replace(marker, final)
            FILES.sync_dir(os.path.dirname(final))

        yield finish
    except Exception:
        with suppress(OSError):
            if os.path.exists(marker):  # not finished
                clear()
                os.unlink(marker)
        raise
    finally:
        lock.release()
        with suppress(OSError):  # Windows: while somebody looks at it; it is in nobody's way
            os.unlink(lock.path)
