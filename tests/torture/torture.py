"""A tree with everything that a file system holds, made from a seed. Linux; more of it as root.

`build` makes the tree and says what it had to leave out. `unlock` takes away what keeps it from being
removed. Two things have trees of their own, since most tools can't look at them: `build_deep` (paths beyond
PATH_MAX) and `build_huge` (sparse files larger than any disk).
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import random
import socket
import stat
import struct

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
SECOND_NS = 10**9
NAME_BYTES_MAX = 255
PATH_BYTES_MAX = 4096
HUGE_BYTES = 3 << 40
BLOCK = 4096
GET_FLAGS, SET_FLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS where a long has 8 bytes
IMMUTABLE, APPEND, NODUMP, NOATIME = 0x10, 0x20, 0x40, 0x80
NONE_HERE = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM, errno.EINVAL, errno.ENOSPC}

# 1901 to 2446 is what ext4 can hold; before 1970, between two seconds, and beyond 64 bits of nanoseconds.
TIMES_NS = [
    0,
    1,
    -1,
    -1_234_567_891,
    -2_000_000_000 * SECOND_NS - 1,
    1_700_000_000 * SECOND_NS + 999_999_999,
    (1 << 31) * SECOND_NS + 5,
    10_413_792_000 * SECOND_NS + 123_456_789,
]

NAMES = [
    b"plain",
    b" leading and trailing ",
    b"-rf",
    b"--help",
    b"...",
    b"..a",
    b"new\nline",
    b"tab\tand\rreturn",
    b"back\\slash",
    b"quote'\"`$(x)",
    b"*?[a]",
    b"\x01\x02\x7f",
    b"\xff\xfe\x80",
    b"latin-\xe4\xf6\xfc",
    "日本語 ☃".encode(),
    "nfc-é".encode(),
    "nfd-e\u0301".encode(),
    b"CON",
    b"a:b",
    b"con.txt.",
    b"UPPER",
    b"upper",
    b"x" * NAME_BYTES_MAX,
    bytes(each for each in range(1, 256) if each != ord("/"))[:NAME_BYTES_MAX],
]

FLAGS = {
    "immutable": IMMUTABLE,
    "append": APPEND,
    "nodump": NODUMP,
    "noatime": NOATIME,
    "both": NODUMP | NOATIME,
}

# --- the tree -------------------------------------------------------------------------------------


class Builder:
    """Makes one tree. `left_out`: what this user, or this file system, could not make."""

    def __init__(self, root, rng):
        self.root = os.fsencode(root)
        self.rng = rng
        self.left_out = set()

    def path(self, *parts):
        return os.path.join(self.root, *(os.fsencode(part) for part in parts))

    @contextlib.contextmanager
    def maybe(self, what):
        """Something that not every user, or not every file system, can make."""
        try:
            yield
        except OSError as error:
            if error.errno not in NONE_HERE:
                raise
            self.left_out.add(what)

    def write(self, path, data):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def blob(self, limit=3000):
        return self.rng.randbytes(self.rng.randrange(limit))

    def build(self):
        os.makedirs(self.root)
        self.names()
        self.sizes()
        self.sparse()
        self.links()
        self.nodes()
        self.attributes()
        self.lists()
        self.crowd()
        self.flagged()
        self.metadata()
        self.set_flags()
        return sorted(self.left_out)

    def names(self):
        for name in NAMES:
            with self.maybe(f"the name {name[:20]!r}"):
                self.write(self.path("names", name), name + self.blob())
                os.makedirs(self.path("names", b"d" + name[:200], b"inner"))
        for _ in range(30):
            length = self.rng.choice([1, 3, 20, 254, 255])
            raw = bytes(self.rng.choice([*range(1, 47), *range(48, 256)]) for _ in range(length))
            if raw not in {b".", b".."}:
                self.write(self.path("random names", raw), self.blob())
        self.write(self.path(*[f"level-{n}" for n in range(60)], "bottom"), b"deep down")
        os.makedirs(self.path("an empty directory"))

    def sizes(self):
        for size in (0, 1, 4095, 4096, 65536, 524288, 524289, (1 << 20) - 1, 1 << 20, (5 << 20) + 17):
            self.write(self.path("sizes", str(size)), self.rng.randbytes(size))
        self.write(self.path("sizes", "zeros"), bytes(700_000))

    def sparse(self):
        """Holes at the start, in the middle and at the end, from one block to many mebibytes."""
        shapes = {
            "all-hole-small": (300_000, []),
            "all-hole-big": (30 << 20, []),
            "starts": (2 << 20, [((2 << 20) - BLOCK, BLOCK)]),
            "ends": (9 << 20, [(0, 100)]),
            "middle": (20 << 20, [(0, BLOCK), (10 << 20, 70_000), ((20 << 20) - 10, 10)]),
            "small": (200_000, [(0, 10), (100_000, 10)]),
            "comb": (4 << 20, [(at, BLOCK) for at in range(0, 4 << 20, 3 * BLOCK)]),
            "odd": ((3 << 20) + 77, [(1 << 20, 12345), ((2 << 20) + 99, 1)]),
        }
        for name, (size, runs) in shapes.items():
            self.holes(self.path("sparse", name), size, runs)
        with self.maybe("preallocated room"):
            path = self.write(self.path("sparse", "preallocated"), b"x" * 1000)
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, 3 << 20)

    def holes(self, path, size, runs):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            for at, length in runs:
                file.seek(at)
                file.write(self.rng.randbytes(length - 1) + b"\1")
            file.truncate(size)

    def links(self):
        links = self.path("links")
        os.makedirs(links)
        targets = [b"../names", b"nowhere at all", b"/", b"/etc/passwd", b"..", b"\xff\n\x01", b"t" * 4095]
        for number, target in enumerate(targets):
            os.symlink(target, os.path.join(links, b"symlink-%d" % number))
        for number in range(400):  # together they are more than one record's meta
            os.symlink(b"%d/" % number * 200, os.path.join(links, b"long-%d" % number))
        for name in ("1", "524289", "0"):
            for directory in ("links", "links/further/down", "."):
                os.makedirs(self.path(directory), exist_ok=True)
                os.link(self.path("sizes", name), self.path(directory, f"another-name-of-{name}"))
        os.link(self.path("sparse", "middle"), self.path("links", "sparse"))
        os.link(os.path.join(links, b"symlink-1"), self.path("a-link-to-a-symlink"), follow_symlinks=False)

    def nodes(self):
        nodes = self.path("nodes")
        os.makedirs(nodes)
        os.mkfifo(os.path.join(nodes, b"fifo"), 0o640)
        os.link(os.path.join(nodes, b"fifo"), self.path("another-fifo"))
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
            here = os.open(nodes, os.O_RDONLY)  # a socket's path has room for 107 bytes
            try:
                sock.bind(f"/proc/self/fd/{here}/socket")
            finally:
                os.close(here)
        devices = [
            (stat.S_IFCHR, 1, 3),
            (stat.S_IFBLK, 7, 200),
            (stat.S_IFCHR, 4095, 1_048_575),
            (stat.S_IFBLK, 259, 65536),
        ]
        for kind, major, minor in devices:
            with self.maybe("device nodes"):
                os.mknod(
                    os.path.join(nodes, b"device-%d-%d" % (major, minor)),
                    kind | 0o600,
                    os.makedev(major, minor),
                )
        if "device nodes" not in self.left_out:
            os.link(os.path.join(nodes, b"device-1-3"), self.path("another-null"))

    def attributes(self):
        """Extended attributes on every kind of entry that may have some."""
        file, directory = (
            self.write(self.path("attributes", "file"), b"x"),
            self.path("attributes", "directory"),
        )
        os.makedirs(directory)
        os.symlink("file", self.path("attributes", "symlink"))
        os.mkfifo(self.path("attributes", "fifo"))
        for path in (
            file,
            directory,
            self.write(self.path("attributes", "big"), self.rng.randbytes(2 << 20)),
        ):
            self.xattr(path, b"user.text", b"some text")
            self.xattr(path, b"user.empty", b"")
            self.xattr(path, b"user.\xff\xfe odd = name", bytes(range(256)))
            self.xattr(path, b"user.large", self.rng.randbytes(1500))
        for name in (b"file", b"directory", b"symlink", b"fifo", b"big"):
            self.xattr(self.path("attributes", name), b"trusted.staddle", self.blob(200))
        with self.maybe("capabilities"):
            tool = self.write(self.path("attributes", "tool"), b"#!/bin/sh\n")
            os.chmod(tool, 0o755)
            value = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep
            os.setxattr(tool, b"security.capability", value)
        for number in range(30):
            path = self.write(self.path("attributes", f"many-{number}"), self.blob())
            for n in range(self.rng.randrange(6)):
                self.xattr(path, b"user.key-%d" % n, self.blob(200))

    def xattr(self, path, name, value):
        with self.maybe(f"{name.split(b'.')[0].decode()} attributes"):
            os.setxattr(path, name, value, follow_symlinks=False)

    def lists(self):
        """POSIX ACLs: (tag, permissions, id) in the kernel's own form."""
        user, group = [(self.rng.randrange(1, 60_000)) for _ in range(2)]
        access = acl([(1, 6, None), (2, 4, user), (4, 5, None), (8, 7, group), (16, 5, None), (32, 0, None)])
        default = acl([(1, 7, None), (2, 7, user), (4, 5, None), (16, 7, None), (32, 5, None)])
        with self.maybe("ACLs"):
            os.setxattr(self.write(self.path("acl", "file"), b"x"), b"system.posix_acl_access", access)
            os.makedirs(self.path("acl", "directory"))
            os.setxattr(self.path("acl", "directory"), b"system.posix_acl_access", default)
            os.setxattr(self.path("acl", "directory"), b"system.posix_acl_default", default)
            # What is made below inherits; an entry without the ACL must come back without it.
            inner = self.write(self.path("acl", "directory", "inherits"), b"y")
            without = self.write(self.path("acl", "directory", "without"), b"z")
            os.removexattr(without, b"system.posix_acl_access")
            assert b"posix_acl_access" in b" ".join(map(os.fsencode, os.listxattr(inner)))

    def crowd(self):
        os.makedirs(self.path("crowd"))
        for number in range(1500):
            with open(self.path("crowd", f"{number:05}"), "wb") as file:
                file.write(b"%d" % number)

    def metadata(self):
        """Owners, modes and times of everything, the deepest first."""
        rng, owner = self.rng, [0, 1000, 65534, 4_294_967_294]
        plain = [0o600, 0o644, 0o755, 0o444, 0o000, 0o4755, 0o2711, 0o1777, 0o7777]
        for directory, below, files in os.walk(self.root, topdown=False):
            for name in [*files, *below, b""]:
                path = os.path.join(directory, name) if name else directory
                status = os.lstat(path)
                if name in below and not stat.S_ISLNK(status.st_mode):
                    continue  # on its own turn, or it could not be entered
                special = os.path.basename(directory) in {b"attributes", b"acl"} or b"/acl/" in path
                if ROOT and not special:
                    os.chown(path, rng.choice(owner), rng.choice(owner), follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    os.chmod(path, rng.choice([0o755, 0o700, 0o2755, 0o1777, 0o555]))
                elif not stat.S_ISLNK(status.st_mode) and not special:
                    os.chmod(path, rng.choice(plain if ROOT else plain[:4]))
        self.times()

    def times(self):
        for directory, below, files in os.walk(self.root, topdown=False):
            for name in [*files, *(name for name in below if os.path.islink(os.path.join(directory, name)))]:
                self.age(os.path.join(directory, name))
            self.age(directory)

    def age(self, path):
        at_ns = self.rng.choice(
            [*TIMES_NS, self.rng.randrange(-2 * 10**9, 4 * 10**9) * SECOND_NS + self.rng.randrange(SECOND_NS)]
        )
        os.utime(path, ns=(at_ns, at_ns), follow_symlinks=False)

    def flagged(self):
        """What gets flags at the end."""
        os.makedirs(self.path("flags", "immutable directory"))
        os.makedirs(self.path("flags", "append-only directory"))
        for name in FLAGS:
            self.write(self.path("flags", name), self.blob())
        os.link(self.path("flags", "immutable"), self.path("flags", "immutable directory", "inside"))

    def set_flags(self):
        """The very last: nothing can be done any more to what is immutable."""
        chosen = [(self.path("flags", name), flags) for name, flags in FLAGS.items()]
        chosen += [
            (self.path("flags", "immutable directory"), IMMUTABLE),
            (self.path("flags", "append-only directory"), APPEND),
            (self.path("an empty directory"), NODUMP),
        ]
        for path, flags in chosen:
            with self.maybe(
                "immutable and append-only flags" if flags & (IMMUTABLE | APPEND) else "file flags"
            ):
                change_flags(path, add=flags)


def acl(entries):
    """A POSIX ACL as the kernel takes it: see linux/posix_acl_xattr.h."""
    packed = [
        struct.pack("<HHI", tag, permissions, 0xFFFFFFFF if who is None else who)
        for tag, permissions, who in entries
    ]
    return struct.pack("<I", 2) + b"".join(packed)


def get_flags(path):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        return struct.unpack("=I", fcntl.ioctl(fd, GET_FLAGS, bytes(ctypes.sizeof(ctypes.c_long)))[:4])[0]
    finally:
        os.close(fd)


def change_flags(path, *, add=0, take=0):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        now = struct.unpack("=I", fcntl.ioctl(fd, GET_FLAGS, bytes(8))[:4])[0]
        fcntl.ioctl(fd, SET_FLAGS, struct.pack("=Q", now & ~take | add))
    finally:
        os.close(fd)


def build(root, seed):
    """Make the tree; what could not be made, in words."""
    return Builder(root, random.Random(seed)).build()


def build_huge(root, seed):
    """Sparse files over 2^40 bytes, with data at the start, in the middle, and at the very end."""
    builder = Builder(root, random.Random(seed))
    with builder.maybe("files over 2^40 bytes"):
        runs = [(0, 10), (HUGE_BYTES // 2 + 12345, 3 << 20), (HUGE_BYTES - 5, 5)]
        builder.holes(builder.path("huge"), HUGE_BYTES, runs)
        builder.holes(builder.path("all hole"), (1 << 40) + 1, [])
    return sorted(builder.left_out)


def build_deep(root, seed):
    """A path of more than PATH_MAX bytes, with an entry of each simple kind at its end."""
    rng = random.Random(seed)
    os.makedirs(root)
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for level in range(PATH_BYTES_MAX // 200 + 4):
            name = b"%03d" % level + b"d" * 220
            os.mkdir(name, 0o755, dir_fd=here)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = inner
        fd = os.open(b"file", os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=here)
        os.write(fd, rng.randbytes(5000))
        with contextlib.suppress(OSError):
            os.setxattr(fd, b"user.deep", b"down here")
        os.close(fd)
        os.symlink(b"file", b"symlink", dir_fd=here)
        os.link(b"file", b"hard link", src_dir_fd=here, dst_dir_fd=here)
        os.mkfifo(b"fifo", 0o600, dir_fd=here)
        os.utime(b"file", ns=(5, -7_000_000_001), dir_fd=here)
    finally:
        os.close(here)


def unlock(root):
    """Take away the flags that keep a tree from being removed, and give the rights back. Never fails."""
    for directory, _, files in os.walk(os.fsencode(root)):
        for path in (directory, *(os.path.join(directory, name) for name in files)):
            with contextlib.suppress(OSError):
                if stat.S_IFMT(os.lstat(path).st_mode) in {stat.S_IFDIR, stat.S_IFREG}:
                    change_flags(path, take=IMMUTABLE | APPEND)
        with contextlib.suppress(OSError):
            os.chmod(directory, 0o700)
