"""Names of what a restore has not finished, which no file of a user's has.

`.staddle-`, 16 digits of this restore's own, and 16 that follow from those and from the directory: its
inode. So a name of this form tells whether a restore has made it in this very directory, on any system
and file system and for any kind of file. A file that a user named so, or that was copied or restored from
elsewhere, does not fit.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

TEMPORARY: Final = b".staddle-"
"""How they begin."""
PROBE: Final = b"-a"
"""What follows in the name of a file that only tries whether a directory tells letters apart."""
_FORM: Final = re.compile(re.escape(TEMPORARY) + rb"([0-9a-f]{16})([0-9a-f]{16})(?:" + PROBE + rb")?")


def temporary_name(own: bytes, inode: int) -> bytes:
    """A name for a directory.

    Args:
        own: 16 hexadecimal digits that no other restore takes.
        inode: of the directory.
    """
    return TEMPORARY + own + _mark(own, inode)


def is_temporary(name: bytes, inode: int) -> bool:
    """Whether a restore has made this name in the directory of this inode."""
    found = _FORM.fullmatch(name)
    return found is not None and found[2] == _mark(found[1], inode)


def _mark(own: bytes, inode: int) -> bytes:
    return (
        hashlib.blake2b(b"%s %d" % (own, inode), digest_size=8, person=b"staddle restore")
        .hexdigest()
        .encode()
    )
