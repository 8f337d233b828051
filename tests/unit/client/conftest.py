"""A tree with many kinds of entries."""

import os
import random

import pytest

from .kit import (
    CHUNK,
)


@pytest.fixture
def tree(tmp_path, seed):
    """Many kinds of entries, with odd names, modes and times."""
    rng = random.Random(seed)
    root = tmp_path / "source"
    (root / "deep/er/est").mkdir(parents=True)
    (root / "empty dir").mkdir()
    for number in range(60):
        (root / "deep" / f"small-{number:03}").write_bytes(rng.randbytes(rng.randrange(3000)))
    (root / "empty").write_bytes(b"")
    (root / "deep/er/big").write_bytes(rng.randbytes(5 * 1024 * 1024 + 17))
    (root / "deep/er/mebibytes").write_bytes(rng.randbytes(3 << 20))
    (root / "sparse").write_bytes(bytes(CHUNK * 3) + rng.randbytes(CHUNK) + bytes(CHUNK * 40))
    (root / "zeros").write_bytes(bytes(3 << 20))
    (root / "link").symlink_to("deep/nowhere")
    os.link(root / "deep/small-000", root / "hard")
    os.mkfifo(root / "pipe", 0o640)
    with open(os.fsencode(root) + b"/n\xe4me \xff", "wb") as file:
        file.write(b"not UTF-8")
    (root / "hidden").write_bytes(b"x")
    (root / "hidden").chmod(0o400)
    (root / "tool").write_bytes(b"#!")
    (root / "tool").chmod(0o4751)
    os.utime(root / "empty", ns=(0, -1_234_567_891))
    os.utime(root / "link", ns=(0, 1_111_111_111_222_222_222), follow_symlinks=False)
    (root / "deep").chmod(0o555)
    for path in (root / "deep/er/est", root / "deep", root):
        os.utime(path, ns=(0, 1_500_000_000_987_654_321))
    yield root
    (root / "deep").chmod(0o755)


@pytest.fixture
def small(tmp_path):
    """A small tree of many kinds."""
    root = tmp_path / "source"
    (root / "dir").mkdir(parents=True)
    (root / "a").write_bytes(b"content of a")
    (root / "dir/b").write_bytes(b"content of b")
    os.link(root / "a", root / "dir/hard")
    os.symlink("a", root / "link")
    os.mkfifo(root / "pipe")
    for path in (root / "a", root / "dir/b", root / "link", root / "pipe", root / "dir", root):
        os.utime(path, ns=(5, 1_500_000_000_000_000_000), follow_symlinks=False)
    return root
