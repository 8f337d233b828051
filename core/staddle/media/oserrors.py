"""The operating system's errors in the terms of the contract, for drivers that work on paths."""

from __future__ import annotations

import errno

from staddle.errors import Denied, MediumFailed, MediumFull, Outcome, StaddleError

# Windows has no EDQUOT in the range that matters; ESTALE exists everywhere that has NFS.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM}
_OF_THIS_HOST = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""What this host is short of: another one may write there, and a little later this one may too."""
_HINTS = {
    errno.EROFS: "the file system is read-only: look in the system's log for disk errors, mount it again",
    errno.ESTALE: "the server has forgotten the mount: mount it again",
    errno.EIO: "look in the system's log for errors of the disk or the network share",
    errno.ENOENT: "is it mounted, and at the configured path?",
    errno.ENOTDIR: "is it mounted, and at the configured path?",
    errno.ENOTCONN: "the file server is gone: mount it again",
    errno.EHOSTDOWN: "the file server does not answer",
    errno.ETIMEDOUT: "the file server does not answer",
    errno.EMFILE: "raise the limit of open files (ulimit -n) of the agent",
    errno.ENFILE: "the system is out of file handles",
}


def translate(error: OSError, what: str, *, outcome: Outcome = "not_done") -> StaddleError:
    """The error of the contract for an OSError.

    Only ENOSPC, EDQUOT and EFBIG mean full. Everything else sends the work elsewhere: what a path refuses
    today may be a permission or a broken disk, and another copy or path can go on either way.

    Args:
        error: what the system said.
        what: what was attempted, and where: "write object … on …".
        outcome: what became of the request.
    """
    text = f"{what}: {error.strerror or error}"
    if error.errno in _FULL:
        return MediumFull(
            text, hint="free space, raise the quota or add a medium to the pool", outcome=outcome
        )
    if error.errno in _DENIED:
        return Denied(
            text,
            hint="the agent's user must own the directory",
            retry="elsewhere",
            scope="medium",
            outcome=outcome,
        )
    failed = MediumFailed(text, hint=_HINTS.get(error.errno or 0, ""), outcome=outcome)
    if error.errno in _OF_THIS_HOST:
        failed.scope, failed.retry = "path", "after"
    return failed
