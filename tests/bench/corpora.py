"""Seeded corpora, and for each a second generation: what a day's work changes in it.

`library` files are real ones, of this system's libraries and shared data: the same machine gives the same
corpora, another one similar ones. The digest in the report says whether two runs saw the same bytes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import random
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
ROOTS = ("/usr/lib", "/usr/share")
LIBRARY_FILE_MAX = 1 * MIB
TREE_BYTES, TREE_FILES = 425 * MIB, 37_000
IMAGE_BYTES = 2 * GIB
SMALL_FILES, SMALL_PER_DIRECTORY = 100_000, 500
RANDOM_FILES, RANDOM_FILE_BYTES = 4, 128 * MIB
COPIES, COPY_BYTES = 6, 64 * MIB
BLOCK, PIECE = 4 * KIB, 64 * KIB
SPOT_BYTES = 8 * MIB  # an edit of big files stands in each of these
CHANGED_SHARE = 0.03


@functools.cache
def library() -> list[tuple[str, list[str]]]:
    """Directories of real files, (path, names), in the order of a hash of their paths.

    A directory is taken whole or not at all, so that files stand together as they do in life; one with a
    longer file than LIBRARY_FILE_MAX is left out. On systems without ROOTS it is Python's own library.
    """
    stdlib = sysconfig.get_paths()["stdlib"]
    roots = [root for root in ROOTS if os.path.isdir(root)]
    if not any(os.path.commonpath([root, os.path.realpath(stdlib)]) == root for root in roots):
        roots.append(stdlib)
    found = []
    for root in roots:
        for directory, below, names in os.walk(root):
            below[:] = [name for name in below if name not in {"__pycache__", "site-packages"}]
            kept = sorted(name for name in names if _usable(os.path.join(directory, name)))
            sizes = [os.lstat(os.path.join(directory, name)).st_size for name in kept]
            if kept and max(sizes) <= LIBRARY_FILE_MAX:
                found.append((directory, kept))
    return sorted(found, key=lambda item: hashlib.sha256(os.fsencode(item[0])).digest())


def _usable(path: str) -> bool:
    return os.path.islink(path) or (os.path.isfile(path) and os.access(path, os.R_OK))


def contents(seed: int) -> Iterator[bytes]:
    """Contents of library files without end. From the second turn on other bytes, as compressible as before.

    A permutation of the byte values keeps every repetition and every frequency, so a compressor makes the
    same of it; but no chunk is the same.
    """
    rng = random.Random(seed)
    for turn in itertools.count():
        values = list(range(256))
        if turn or seed:
            rng.shuffle(values)
        table, seen = bytes(values), False
        for directory, names in library():
            for path in (os.path.join(directory, name) for name in names):
                data = b""
                with contextlib.suppress(OSError), open(path, "rb") as handle:
                    data = b"" if os.path.islink(path) else handle.read()
                if data:
                    seen = True
                    yield data.translate(table)
        if not seen:
            raise RuntimeError("there is no library file to be read on this system")


class Stock:
    """Hands out bytes of `contents` in any amount."""

    def __init__(self, seed: int) -> None:
        self._source = contents(seed)
        self._rest = b""

    def take(self, length: int) -> bytes:
        parts, missing = [], length
        while missing:
            self._rest = self._rest or next(self._source)
            parts.append(self._rest[:missing])
            self._rest = self._rest[missing:]
            missing -= len(parts[-1])
        return b"".join(parts)


# --- first generations


def make_tree(path: str, scale: float) -> None:
    """Library directories, up to 425 MiB and 37,000 files."""
    size = files = 0
    for directory, names in library():
        stats = [os.lstat(os.path.join(directory, name)) for name in names]
        total = sum(each.st_size for each in stats)
        if size + total > TREE_BYTES * scale or files + len(names) > TREE_FILES * scale:
            continue
        size, files = size + total, files + len(names)
        target = os.path.join(path, directory.lstrip(os.sep).replace(":", ""))
        os.makedirs(target, exist_ok=True)
        for name in names:
            shutil.copy2(os.path.join(directory, name), os.path.join(target, name), follow_symlinks=False)


def make_image(path: str, scale: float) -> None:
    """One file laid out as a disk is: files, noise (media, archives), repetitions and zeros, in blocks."""
    rng, source, size = random.Random(7), contents(0), int(IMAGE_BYTES * scale)
    shares = {"files": 0.60, "noise": 0.25, "repeat": 0.10, "zeros": 0.05}
    written = dict.fromkeys(shares, 0)
    os.makedirs(path)
    with open(os.path.join(path, "disk.img"), "w+b") as handle:
        at = 0
        while at < size:
            kind = min(shares, key=lambda each: written[each] / shares[each])
            length = min(BLOCK * rng.randrange(4, 129), at or BLOCK)
            data = next(source) if kind == "files" else bytes(length)
            if kind == "noise":
                data = rng.randbytes(length)
            elif kind == "repeat":
                handle.seek(rng.randrange(0, at - length + 1, BLOCK) if at else 0)
                data = handle.read(length)
                handle.seek(at)
            data = data[: size - at] + bytes(-len(data) % BLOCK)
            handle.write(data)
            written[kind] += max(len(data), BLOCK)
            at += len(data)


def make_small(path: str, scale: float) -> None:
    """100,000 files of 1-8 KiB of compressible text."""
    rng = random.Random(11)
    words = [rng.randbytes(4).hex().encode() for _ in range(4000)]
    for number in range(max(1, int(SMALL_FILES * scale))):
        directory = os.path.join(path, f"{number // SMALL_PER_DIRECTORY:03d}")
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, f"{number:06d}.txt"), "wb") as handle:
            handle.write(b" ".join(rng.choices(words, k=rng.randrange(114, 910))))


def make_random(path: str, scale: float) -> None:
    """Four files of 128 MiB that nothing can compress."""
    rng, pieces = random.Random(13), max(1, int(RANDOM_FILE_BYTES * scale) // PIECE)
    os.makedirs(path)
    for number in range(RANDOM_FILES):
        with open(os.path.join(path, f"noise-{number}"), "wb") as handle:
            handle.writelines(rng.randbytes(PIECE) for _ in range(pieces))


def make_duplicates(path: str, scale: float) -> None:
    """Six copies of 64 MiB of library files, each the copy before it with some bytes inserted."""
    rng, stock, pieces = random.Random(17), Stock(17), max(1, int(COPY_BYTES * scale) // PIECE)
    os.makedirs(path)
    before = os.path.join(path, "copy-0")
    with open(before, "wb") as handle:
        handle.writelines(stock.take(PIECE) for _ in range(pieces))
    for number in range(1, COPIES):
        after = os.path.join(path, f"copy-{number}")
        splice(before, after, rng, 0.0, rng.randbytes)
        before = after


# --- second generations


def splice(source: str, target: str, rng: random.Random, share: float, fresh: Callable[[int], bytes]) -> None:
    """Copy a file; in each SPOT_BYTES replace `share` by fresh bytes, and some more: what follows moves.

    Args:
        source: the file.
        target: where the copy goes.
        rng: chooses the places.
        share: of the bytes of each spot that is replaced.
        fresh: gives new bytes.
    """
    spot_bytes = min(SPOT_BYTES, max(BLOCK, os.path.getsize(source)))
    with open(source, "rb") as old, open(target, "wb") as new:
        while spot := old.read(spot_bytes):
            replaced = int(len(spot) * share)
            at = rng.randrange(max(1, len(spot) - replaced))
            new.write(spot[:at] + fresh(replaced + rng.randrange(1, 4096)) + spot[at + replaced :])


def _spliced(path: str, seed: int, fresh: Callable[[int], bytes]) -> None:
    """Replace a file by its second generation."""
    splice(path, path + ".new", random.Random(seed), CHANGED_SHARE, fresh)
    os.replace(path + ".new", path)


def change_files(path: str) -> None:
    """Of the files 2 % are edited, 1 % renamed, 1 % new, 0.5 % removed."""
    rng = random.Random(19)
    files = []
    for directory, below, names in os.walk(path):
        below.sort()
        files += [os.path.join(directory, name) for name in sorted(names)]
    files = [file for file in files if not os.path.islink(file) and os.path.getsize(file)]
    chosen = rng.sample(files, max(4, len(files) * 45 // 1000))
    edits, renames = max(1, len(files) // 50), max(1, len(files) // 100)
    for number, file in enumerate(chosen):
        if number < edits:
            _edit(file, rng)
        elif number < edits + renames:
            os.rename(file, file + ".renamed")
        elif number < edits + 2 * renames:
            with open(file, "rb") as handle, open(file + ".added", "wb") as added:
                data = handle.read()
                half = len(data) // 2
                added.write(data[half:] + rng.randbytes(64).hex().encode() + data[:half])
        else:
            os.unlink(file)


def _edit(path: str, rng: random.Random) -> None:
    """Insert a line somewhere, in place: as an editor that keeps the inode."""
    os.chmod(path, os.stat(path).st_mode | 0o200)
    with open(path, "r+b") as handle:
        data = handle.read()
        at = rng.randrange(len(data) + 1)
        handle.seek(at)
        handle.write(b"edited " + rng.randbytes(16).hex().encode() + b"\n" + data[at:])


def change_image(path: str) -> None:
    """Of every 8 MiB 3 % are other bytes, and up to 4 KiB more than there were."""
    _spliced(os.path.join(path, "disk.img"), 23, Stock(23).take)


def change_random(path: str) -> None:
    """The same in one of the files."""
    _spliced(os.path.join(path, "noise-1"), 29, random.Random(31).randbytes)


def change_duplicates(path: str) -> None:
    """One more edited copy."""
    source, target = (os.path.join(path, f"copy-{number}") for number in (COPIES - 1, COPIES))
    rng = random.Random(37)
    splice(source, target, rng, 0.0, rng.randbytes)


@dataclass(frozen=True)
class Corpus:
    """How to make a corpus in a new directory, and how to make its second generation out of it.

    Attributes:
        make: (path, scale).
        change: (path).
        new: relative path of what is new data in the first generation; "" = all of it.
    """

    make: Callable[[str, float], None]
    change: Callable[[str], None]
    new: str = ""


CORPORA = {
    "tree": Corpus(make_tree, change_files),
    "image": Corpus(make_image, change_image),
    "small": Corpus(make_small, change_files),
    "random": Corpus(make_random, change_random),
    "duplicates": Corpus(make_duplicates, change_duplicates, new="copy-0"),
}


def describe(path: str) -> dict[str, object]:
    """Files, directories, bytes, and a digest of paths and contents."""
    digest, files, directories, size = hashlib.blake2b(digest_size=8), 0, 0, 0
    for directory, below, names in os.walk(path):
        below.sort()
        directories += 1
        for name in sorted(names):
            file = os.path.join(directory, name)
            files += 1
            size += os.lstat(file).st_size
            digest.update(os.fsencode(os.path.relpath(file, path)) + b"\0")
            if os.path.islink(file):
                digest.update(os.fsencode(os.readlink(file)))
                continue
            with open(file, "rb") as handle:
                while piece := handle.read(MIB):
                    digest.update(piece)
    return {"files": files, "directories": directories, "bytes": size, "digest": digest.hexdigest()}
