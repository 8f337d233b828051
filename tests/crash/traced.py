"""A tape of another process, made by strace: for what C libraries write. Linux only.

The process says what it has acknowledged by asking for a file `/mark/TEXT`, which is not there.
"""

import os
import re
import subprocess
import tempfile

from staddle.testing.crashfs import Tape
from staddle.testing.crashmodel import Op

CALLS = (
    "openat,creat,close,dup,dup2,write,pwrite64,writev,pwritev,ftruncate,fallocate,truncate,lseek,fsync,fdatasync"
    ",sync_file_range,rename,renameat,renameat2,unlink,unlinkat,link,linkat,mkdir,mkdirat"
)
_WHOLE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)")
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_ENDED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (-?\d+)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


def traced(argv, directory, timeout_s=120):
    """Run a program under strace. Returns the tape of what it did below `directory`, which it began empty."""
    with tempfile.TemporaryDirectory() as place:
        out = os.path.join(place, "trace")
        wanted = f"trace={CALLS}"
        command = ["strace", "-f", "-xx", "-s", str(1 << 23), "-e", wanted, "-o", out, *argv]
        subprocess.run(command, check=True, timeout=timeout_s)
        with open(out, encoding="ascii") as file:
            return _Reader(os.path.realpath(directory)).read(file)


class _Reader:
    def __init__(self, root):
        self.root, self.nodes, self.fds, self.place, self.ops = root, {"": 0}, {}, {}, []
        self.size = {}

    def read(self, lines):
        begun = {}
        for line in lines:
            if match := _BEGUN.match(line):
                begun[match[1]] = match[3]
            elif match := _ENDED.match(line):
                self.one(match[2], begun.pop(match[1]) + match[3], int(match[4]))
            elif match := _WHOLE.match(line):
                self.one(match[2], match[3], int(match[4]))
        return Tape([], self.ops)

    def one(self, call, arguments, result):
        texts = [bytes.fromhex(text.replace("\\x", "")) for text in _TEXT.findall(arguments)]
        if call == "openat" and texts[0].startswith(b"/mark/"):
            self.ops.append(Op("mark", mark=texts[0][6:].decode()))
        elif result >= 0:
            getattr(self, f"on_{call}", self.unknown)(texts, _TEXT.sub('""', arguments), result, call)

    def unknown(self, texts, arguments, result, call):
        paths = [text for text in texts if self.relative(text) is not None]
        first = arguments.split(",")[0].strip()
        assert not paths, f"{call} is not understood"
        assert not (first.isdecimal() and int(first) in self.fds), f"{call} is not understood"

    def relative(self, text):
        path = os.path.normpath(os.fsdecode(text))
        if path == self.root:
            return ""
        return path[len(self.root) + 1 :] if path.startswith(self.root + "/") else None

    def note(self, kind, path, node, **more):
        self.ops.append(Op(kind, path, node, **more))

    def on_openat(self, texts, arguments, result, _call):
        self.fds.pop(result, None)
        path = self.relative(texts[0])
        if path is None:
            return
        if path not in self.nodes:
            assert "O_CREAT" in arguments, path
            self.nodes[path] = max(self.nodes.values(), default=0) + len(self.ops) + 1
            self.note("create", path, self.nodes[path])
            self.size[self.nodes[path]] = 0
        elif "O_TRUNC" in arguments:
            self.note("truncate", path, self.nodes[path])
            self.size[self.nodes[path]] = 0
        self.fds[result] = self.nodes[path], path
        self.place[result] = self.size.get(self.nodes[path], 0) if "O_APPEND" in arguments else 0

    def descriptor(self, arguments):
        return int(arguments.split(",")[0])

    def on_close(self, _texts, arguments, _result, _call):
        self.fds.pop(self.descriptor(arguments), None)

    def on_lseek(self, _texts, arguments, result, _call):
        self.place[self.descriptor(arguments)] = result

    def on_write(self, texts, arguments, result, _call):
        fd = self.descriptor(arguments)
        if fd in self.fds:
            self.wrote(fd, texts[0][:result], self.place[fd])
            self.place[fd] += result

    def on_pwrite64(self, texts, arguments, result, _call):
        fd = self.descriptor(arguments)
        if fd in self.fds:
            self.wrote(fd, texts[0][:result], int(arguments.split(",")[-1]))

    def wrote(self, fd, data, offset):
        node, path = self.fds[fd]
        self.size[node] = max(self.size[node], offset + len(data))
        self.note("write", path, node, offset=offset, data=data)

    def on_ftruncate(self, _texts, arguments, _result, _call):
        fd = self.descriptor(arguments)
        if fd in self.fds:
            node, path = self.fds[fd]
            self.size[node] = int(arguments.split(",")[1])
            self.note("truncate", path, node, offset=self.size[node])

    def on_fsync(self, _texts, arguments, _result, _call):
        fd = self.descriptor(arguments)
        if fd in self.fds:
            node, path = self.fds[fd]
            self.note("sync" if path else "sync_dir", path, node)

    on_fdatasync = on_fsync

    def on_unlink(self, texts, _arguments, _result, _call):
        path = self.relative(texts[0])
        if path is not None:
            self.note("remove", path, self.nodes.pop(path))

    on_unlinkat = on_unlink

    def on_rename(self, texts, _arguments, _result, _call):
        old, new = map(self.relative, texts)
        if old is not None:
            self.nodes[new] = self.nodes.pop(old)
            self.note("rename", old, self.nodes[new], target=new)

    on_renameat = on_renameat2 = on_rename
