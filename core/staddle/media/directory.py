"""The `directory` medium: objects are files below a directory, also of a mounted NFS or CIFS share.

    root/staddle-volume.txt     the label (M10)
    root/tmp/RANDOM.part        objects that are being written
    root/c0/7f/0192…            objects, by name

A plain directory can't fence (no Cap.FENCE). M5 holds all the same because names are never used again and a
name is only ever given to a finished file, by a call that refuses to replace.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress

from staddle.api.media import Deadline, Mode, check_label
from staddle.api.types import Capability, Health, Label, MediumState, Surety
from staddle.errors import Conflict, MediumFailed, NotFound, StaddleError
from staddle.media.directory_root import LABEL_BYTES_MAX, LABEL_NAME, Root, UnlabelledRoot
from staddle.media.directory_volume import (
    TMP_NAME,
    DirectoryVolume,
    check_area,
    free_space,
    temporary_path,
    write_temporary,
)
from staddle.media.options import DirectoryConfig
from staddle.media.oserrors import translate
from staddle.platform.durable import FILES, fsync_dir, make_directories, publish_no_replace
from staddle.platform.plainfile import read_plain

# What a fresh file system or a file server puts into an empty directory.
_EMPTY_ENOUGH = {"lost+found", ".snapshot", ".snapshots", ".zfs", "System Volume Information", "$RECYCLE.BIN"}
_TEMPORARY = re.compile(r"[0-9a-f]{32}\.part")


class DirectoryMedium:
    """A medium over one directory: one volume."""

    def __init__(self, name: str, config: object) -> None:
        """Args: name: for messages. config: a DirectoryConfig. No I/O yet."""
        assert isinstance(config, DirectoryConfig)
        self.name = name
        self._config = config
        self._path = config.path
        self._label: Label | None = None

    def __repr__(self) -> str:
        return f"DirectoryMedium({self.name!r}, {self._path!r})"

    def initialize(self, label: Label, text: bytes, deadline: Deadline) -> None:
        """Write the label. Raises Conflict unless the directory is empty or has this very label."""
        try:
            self._make_root()
            self._check_mounted()
            with suppress(NotFound):
                if self.read_label(deadline) == text:
                    fsync_dir(self._path)
                    return
                raise Conflict(
                    f"{self._path} is labelled already, as another volume",
                    hint="give the medium another directory, or remove the old volume by hand",
                )
            self._check_empty()
            os.makedirs(os.path.join(self._path, TMP_NAME), mode=0o700, exist_ok=True)
            self._write_label(text, deadline)
            fsync_dir(self._path)
        except FileExistsError:
            if self.read_label(deadline) != text:
                raise Conflict(f"{self._path} was labelled by somebody else at the same time") from None
            fsync_dir(self._path)
        except OSError as error:
            raise translate(error, f"label {self._path}") from error

    def _write_label(self, text: bytes, deadline: Deadline, *, replace: bool = False) -> None:
        temporary = temporary_path(self._path)
        check_area(self._path)
        try:
            write_temporary(temporary, [text], deadline)
            (FILES.replace if replace else publish_no_replace)(
                temporary, os.path.join(self._path, LABEL_NAME)
            )
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)

    def read_label(self, deadline: Deadline) -> bytes:
        """The label's text. Raises NotFound (scope `medium`: nor is there a directory), MediumFailed."""
        try:
            text = read_plain(os.path.join(self._path, LABEL_NAME), LABEL_BYTES_MAX + 1, follow=False)
        except (FileNotFoundError, NotADirectoryError):
            if not os.path.isdir(self._path):
                raise NotFound(
                    f"{self._path} is not there",
                    scope="medium",
                    hint="is it mounted? a new one: make the directory",
                ) from None
            raise NotFound(
                f"{self._path} has no label",
                scope="volume",
                hint="is it mounted, and at the configured path?",
            ) from None
        except OSError as error:
            raise translate(error, f"read the label of {self._path}") from error
        if len(text) > LABEL_BYTES_MAX:
            raise MediumFailed(f"the label of {self._path} is larger than {LABEL_BYTES_MAX} bytes")
        return text

    def relabel(self, label: Label, text: bytes, found: bytes, deadline: Deadline) -> None:
        """Write the label again: whole, beside, then in one step. Raises Conflict if it has changed."""
        try:
            self._check_mounted()
            held = b""
            with suppress(NotFound):
                held = self.read_label(deadline)
            if held not in {text, found}:
                raise Conflict(f"the label of {self._path} has changed meanwhile", hint="look again")
            if held != text:
                os.makedirs(os.path.join(self._path, TMP_NAME), mode=0o700, exist_ok=True)
                self._write_label(text, deadline, replace=bool(held))
            fsync_dir(self._path)
        except FileExistsError:
            raise Conflict(f"{self._path} was labelled by somebody else at the same time") from None
        except OSError as error:
            raise translate(error, f"label {self._path}") from error

    def open_unlabelled(self, label: Label, deadline: Deadline) -> DirectoryVolume:
        """Open the directory for reading whatever its label says. Raises MediumFailed if it is not there."""
        self._check_mounted()
        return DirectoryVolume(UnlabelledRoot(self._path, label), "read", self._config.reserve_bytes)

    def open(self, label: Label, mode: Mode, epoch: int, deadline: Deadline) -> DirectoryVolume:
        """Open the volume. `epoch` is not used: a directory can't fence, and does not claim to."""
        self._check_mounted()
        volume = DirectoryVolume(Root(self._path, label), mode, self._config.reserve_bytes)
        self._label = label
        return volume

    def health(self, deadline: Deadline) -> Health:
        """UP if the labelled volume is there and can be written."""
        try:
            self._check_mounted()
            if os.path.isdir(self._path) and _is_read_only(self._path):
                return Health(
                    MediumState.OFFLINE,
                    f"{self._path} is mounted read-only; look in the system's log for disk errors, "
                    "mount it for writing",
                )
            if self._label is not None:
                self._check_is(self._label, deadline)
            else:
                self._check_labelled(deadline)
            capacity = free_space(self._path, self._config.reserve_bytes)
        except StaddleError as error:
            return Health(MediumState.OFFLINE, str(error))
        except OSError as error:
            return Health(MediumState.OFFLINE, str(translate(error, f"look at {self._path}")))
        low = ""
        if capacity.low:
            free = f"only {capacity.free_bytes >> 20} MiB are free on {self._path}"
            low = f"{free}; make room, or add a medium to the pool"
        return Health(MediumState.UP, low)

    def probe(self, deadline: Deadline) -> list[Capability]:
        """Try no-replace publishing and both kinds of sync on this very directory.

        Leaves nothing behind but the directory itself.
        """
        where = os.path.join(self._path, f"{TMP_NAME}-probe-{os.urandom(8).hex()}")
        try:
            self._make_root()
            self._check_mounted()
            os.mkdir(where, 0o700)
        except OSError as error:
            raise translate(error, f"probe {self._path}") from error
        try:
            return [*_probe_publish(where, deadline), *_probe_space(self._path)]
        except OSError as error:
            raise translate(error, f"probe {self._path}") from error
        finally:
            for name in ("a.part", "b.part", "a"):
                with suppress(OSError):
                    os.unlink(os.path.join(where, name))
            with suppress(OSError):
                os.rmdir(where)

    def close(self) -> None:
        """Nothing is held."""

    # -- the place

    def _make_root(self) -> None:
        if self._config.mount:
            return
        make_directories(self._path)

    def _check_mounted(self) -> None:
        if not self._config.mount:
            return
        path = os.path.abspath(self._path)
        while path != os.path.dirname(path):
            if os.path.ismount(path):
                return
            path = os.path.dirname(path)
        # There every drive and share is a root of its own; the system's counts as `/` does elsewhere.
        if sys.platform == "win32" and path[:2].lower() != os.environ.get("SYSTEMDRIVE", "C:").lower():
            return
        raise MediumFailed(
            f"{self._path} is not on a mounted file system",
            code="NOT_MOUNTED",
            hint="mount it, then try again",
        )

    def _check_is(self, label: Label, deadline: Deadline) -> None:
        try:
            check_label(self.read_label(deadline), label, self._path)
        except NotFound as error:
            raise MediumFailed(error.message, code="LABEL_GONE", hint="is it mounted?") from None

    def _check_labelled(self, deadline: Deadline) -> None:
        """Raise for a place without a label; if it can't get one, for what is in the way."""
        try:
            self.read_label(deadline)
        except NotFound as error:
            if error.scope == "volume":
                self._check_empty()
            raise

    def _check_empty(self) -> None:
        for entry in os.listdir(self._path):
            if entry in _EMPTY_ENOUGH:
                continue
            # Left by a labelling that was cut off.
            if entry == TMP_NAME and _only_temporaries(os.path.join(self._path, entry)):
                continue
            raise Conflict(
                f"{self._path} is not empty (it holds {entry!r}) and has no label of ours",
                hint="give the medium an empty directory",
            )


def _only_temporaries(directory: str) -> bool:
    return os.path.isdir(directory) and all(_TEMPORARY.fullmatch(entry) for entry in os.listdir(directory))


def _is_read_only(path: str) -> bool:
    if sys.platform == "win32":
        return False
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _probe_publish(where: str, deadline: Deadline) -> Iterable[Capability]:
    first, second, final = (os.path.join(where, name) for name in ("a.part", "b.part", "a"))
    write_temporary(first, [b"first"], deadline)
    write_temporary(second, [b"second"], deadline)
    yield Capability("FILE_SYNC", Surety.PROBED, "a file was written and synced")
    try:
        publish_no_replace(first, final)
    except OSError as error:
        yield Capability(
            "CONDITIONAL_PUT", Surety.PROBED, f"a finished file can't be named: {error}", holds=False
        )
        return
    try:
        publish_no_replace(second, final)
    except FileExistsError:
        with open(final, "rb") as file:
            kept = file.read() == b"first"
        yield Capability(
            "CONDITIONAL_PUT", Surety.PROBED, "an existing name was refused, its bytes kept", holds=kept
        )
    else:
        yield Capability("CONDITIONAL_PUT", Surety.PROBED, "an existing name was replaced", holds=False)
    try:
        fsync_dir(where)
    except OSError as error:
        yield Capability(
            "DIRECTORY_SYNC", Surety.PROBED, f"a directory can't be synced: {error}", holds=False
        )
    else:
        yield Capability("DIRECTORY_SYNC", Surety.PROBED, "a directory was synced")
    with open(final, "rb") as file:
        file.seek(1)
        yield Capability("RANDOM_READ", Surety.PROBED, "a range was read", holds=file.read(2) == b"ir")


def _probe_space(path: str) -> Iterable[Capability]:
    capacity = free_space(path, None)
    source = f"{capacity.free_bytes} of {capacity.total_bytes} bytes free"
    yield Capability("CAPACITY", Surety.PROBED, source, holds=capacity.total_bytes > 0)
