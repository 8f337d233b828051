"""The recorder of `crashfs`: functions that stand for those of `os` and for `open`."""

from __future__ import annotations

import builtins
import io
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from staddle.errors import UsageError
from staddle.testing.crashmodel import ROOT, Op, OpKind, base_disk

_UNKNOWN = (
    "sendfile",
    "copy_file_range",
    "writev",
    "pwritev",
    "posix_fallocate",
    "symlink",
    "mkfifo",
    "mknod",
)
_WRITING = frozenset("wax+")


class Recorder:
    """Does everything for real, and writes down what happens below its directory."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._nodes: dict[str, int] = {"": ROOT}
        self._directories = {ROOT}
        self._fds: dict[int, tuple[int, str]] = {}
        self._last = ROOT
        self._os = {name: getattr(os, name) for name in dir(os) if callable(getattr(os, name))}
        self._open = builtins.open
        self._lock = threading.RLock()
        self.base: list[Op] = []
        self.ops: list[Op] = []
        self._scan("")
        self.base, self.ops = self.ops, []

    def functions(self) -> Iterator[tuple[Any, str, Callable[..., Any]]]:
        """(module, name, what takes its place)."""
        for name in ("open", "write", "pwrite", "ftruncate", "truncate", "close", "mkdir", "rmdir", "link"):
            yield os, name, getattr(self, f"_{name}" if name != "open" else "_os_open")
        yield os, "unlink", self._unlink
        yield os, "remove", self._unlink
        yield os, "rename", self._rename
        yield os, "replace", self._rename
        for name in _UNKNOWN:
            yield os, name, self._refused(name)
        yield builtins, "open", self._open_file
        yield io, "open", self._open_file

    def compare(self) -> None:
        """Raise UsageError unless what was recorded gives what is there."""
        disk = base_disk([*self.base, *self.ops])
        recorded = disk.state([], "the end").files
        found: dict[str, bytes] = {}
        for folder, _, names in os.walk(self._root):
            for name in names:
                path = os.path.join(folder, name)
                with self._open(path, "rb") as file:
                    found[self._relative(path) or ""] = file.read()
        for path in sorted({*recorded, *found}):
            if recorded.get(path) != found.get(path):
                raise UsageError(f"{path} in {self._root} was changed in a way that was not recorded")

    def sync(self, fd: int) -> None:
        """Stands for fsync and fdatasync."""
        with self._lock:
            if fd in self._fds:
                node, path = self._fds[fd]
                self._note("sync_dir" if node in self._directories else "sync", path, node)

    # -- descriptors

    def _os_open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        with self._lock:
            fd: int = self._os["open"](path, flags, mode, dir_fd=dir_fd)
            relative = self._relative(path, dir_fd)
            if relative is None:
                self._fds.pop(fd, None)
                return fd
            if relative not in self._nodes:
                self._new("create", relative)
            elif flags & os.O_TRUNC:
                self._note("truncate", relative, self._nodes[relative])
            self._fds[fd] = self._nodes[relative], relative
            return fd

    def _close(self, fd: int) -> None:
        with self._lock:
            self._fds.pop(fd, None)
            self._os["close"](fd)

    def _write(self, fd: int, data: Any) -> int:
        with self._lock:
            if fd not in self._fds:
                return int(self._os["write"](fd, data))
            written = int(self._os["write"](fd, data))
            # Asked for afterwards: an appending descriptor stands at the end only once it has written.
            end = os.lseek(fd, 0, os.SEEK_CUR)
            self._wrote(fd, bytes(memoryview(data).cast("B")[:written]), end - written)
            return written

    def _pwrite(self, fd: int, data: Any, offset: int) -> int:
        with self._lock:
            written = int(self._os["pwrite"](fd, data, offset))
            if fd in self._fds:
                self._wrote(fd, bytes(memoryview(data).cast("B")[:written]), offset)
            return written

    def _wrote(self, fd: int, data: bytes, offset: int) -> None:
        node, path = self._fds[fd]
        if data:
            self._note("write", path, node, offset=offset, data=data)

    def _ftruncate(self, fd: int, length: int) -> None:
        with self._lock:
            self._os["ftruncate"](fd, length)
            if fd in self._fds:
                node, path = self._fds[fd]
                self._note("truncate", path, node, offset=length)

    def _truncate(self, path: Any, length: int) -> None:
        if isinstance(path, int):
            self._ftruncate(path, length)
            return
        with self._lock:
            self._os["truncate"](path, length)
            relative = self._relative(path)
            if relative is not None:
                self._note("truncate", relative, self._nodes[relative], offset=length)

    # -- names

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        with self._lock:
            self._os["mkdir"](path, mode, dir_fd=dir_fd)
            relative = self._relative(path, dir_fd)
            if relative is not None:
                self._new("mkdir", relative)
                self._directories.add(self._last)

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._removed("unlink", path, dir_fd)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._removed("rmdir", path, dir_fd)

    def _removed(self, name: str, path: Any, dir_fd: int | None) -> None:
        with self._lock:
            self._os[name](path, dir_fd=dir_fd)
            relative = self._relative(path, dir_fd)
            if relative is not None:
                self._note("remove", relative, self._nodes.pop(relative))

    def _link(self, source: Any, target: Any, **more: Any) -> None:
        with self._lock:
            old, new = self._both(source, target, **more)
            self._os["link"](source, target, **more)
            if old is not None and new is not None:
                self._nodes[new] = self._nodes[old]
                self._note("link", old, self._nodes[old], target=new)

    def _rename(self, source: Any, target: Any, **more: Any) -> None:
        with self._lock:
            old, new = self._both(source, target, **more)
            self._os["replace"](source, target, **more)
            if old is None or new is None:
                return
            node = self._nodes[old]
            moved = {path: number for path, number in self._nodes.items() if path.startswith(old + "/")}
            for path, number in {old: node, **moved}.items():
                del self._nodes[path]
                self._nodes[new + path[len(old) :]] = number
            self._note("rename", old, node, target=new)

    def _both(
        self,
        source: Any,
        target: Any,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
        follow_symlinks: bool = True,
    ) -> tuple[str | None, str | None]:
        old, new = self._relative(source, src_dir_fd), self._relative(target, dst_dir_fd)
        if (old is None) != (new is None):
            raise UsageError(f"{source!r} to {target!r}: into or out of the recorded directory")
        return old, new

    # -- files of `open`

    def _open_file(self, file: Any, mode: str = "r", buffering: int = -1, *more: Any, **named: Any) -> Any:
        recorded = file in self._fds if isinstance(file, int) else self._relative(file) is not None
        if not recorded or not _WRITING.intersection(mode):
            return self._open(file, mode, buffering, *more, **named)
        if named.get("opener") is not None:
            raise UsageError("open with an opener is not recorded")
        raw = _RecordedFile(self, file, mode.replace("b", "").replace("t", ""), named.pop("closefd", True))
        named.pop("opener", None)
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *more, **named)

    # -- inside

    def _relative(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The path below the directory, or None for one that is elsewhere."""
        if isinstance(path, int):
            return None
        if dir_fd is not None and not os.path.isabs(path):
            return os.path.join(self._fds[dir_fd][1], os.fsdecode(path)) if dir_fd in self._fds else None
        full = os.path.normpath(os.path.join(os.getcwd(), os.fsdecode(path)))
        for form in (full, os.path.join(os.path.realpath(os.path.dirname(full)), os.path.basename(full))):
            if form == self._root:
                return ""
            if form.startswith(self._root + os.sep):
                return form[len(self._root) + 1 :]
        return None

    def _new(self, kind: OpKind, relative: str) -> None:
        self._last += 1
        self._nodes[relative] = self._last
        self._note(kind, relative, self._last)

    def _note(self, kind: OpKind, path: str, node: int, **more: Any) -> None:
        self.ops.append(Op(kind, path, node, **more))

    def _scan(self, relative: str) -> None:
        """Take what is there as operations; the caller makes them the base."""
        with os.scandir(os.path.join(self._root, relative)) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                path = os.path.join(relative, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    self._new("mkdir", path)
                    self._directories.add(self._last)
                    self._scan(path)
                else:
                    self._new("create", path)
                    with self._open(entry.path, "rb") as file:
                        self._note("write", path, self._last, data=file.read())

    def _refused(self, name: str) -> Callable[..., Any]:
        def refuse(*arguments: Any, **named: Any) -> Any:
            if any(each in self._fds for each in arguments if isinstance(each, int)) or any(
                self._relative(each) is not None for each in arguments if isinstance(each, str | bytes)
            ):
                raise UsageError(f"os.{name} is not recorded")
            return self._os[name](*arguments, **named)

        return refuse


class _RecordedFile(io.FileIO):
    """A raw file of `open` whose writes go through the recorder."""

    def __init__(self, recorder: Recorder, file: Any, mode: str, closefd: bool) -> None:
        def opener(path: Any, flags: int) -> int:
            return os.open(path, flags, 0o666)

        super().__init__(file, mode, closefd, None if isinstance(file, int) else opener)
        self._recorder = recorder

    def write(self, data: Any) -> int:
        return os.write(self.fileno(), data)

    def truncate(self, size: int | None = None) -> int:
        size = self.tell() if size is None else size
        os.ftruncate(self.fileno(), size)
        return size

    def close(self) -> None:
        if not self.closed and self.closefd:
            self._recorder._fds.pop(self.fileno(), None)  # noqa: SLF001 - its own file
        super().close()
