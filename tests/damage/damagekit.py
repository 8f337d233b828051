"""Ways in which stored bytes go wrong. STADDLE_DAMAGE_FULL=1 tries all of them, else a seeded sample."""

import importlib.util
import os
import pathlib

from staddle.errors import StaddleError

FULL = os.environ.get("STADDLE_DAMAGE_FULL") == "1"
GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden")


def golden():
    """The module that makes one of each format, with fixed keys."""
    spec = importlib.util.spec_from_file_location("golden_make_for_damage", os.path.join(GOLDEN, "make.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flips(data, rng, sample=None):
    """(what, bytes): one bit of each byte, all eight with FULL; of `sample` random bytes if that is given."""
    places = range(len(data))
    if sample is not None and not FULL:
        places = sorted(rng.sample(places, min(sample, len(data))))
    for at in places:
        for bit in range(8) if FULL else (rng.randrange(8),):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            yield f"bit {bit} of byte {at} flipped", bytes(changed)


def cuts(data, rng, sample=200):
    """(what, bytes): cut off at each length, or at a sample that has both ends."""
    lengths = set(range(len(data)))
    if not FULL:
        lengths = {0, 1, len(data) - 1, *rng.sample(range(len(data)), min(sample, len(data)))}
    for length in sorted(lengths):
        yield f"cut off at {length} bytes", data[:length]


def other_shapes(data, rng):
    """(what, bytes): longer, doubled, shifted, blank, random, torn by sectors."""
    yield "one byte longer", data + b"\0"
    yield "a page longer", data + rng.randbytes(4096)
    yield "twice", data + data
    yield "one byte shifted", b"\0" + data[:-1]
    yield "the first byte is missing", data[1:]
    yield "zeros", bytes(len(data))
    yield "random", rng.randbytes(len(data))
    at = rng.randrange(0, max(len(data) - 512, 1))
    yield f"a sector of zeros at {at}", data[:at] + bytes(min(512, len(data) - at)) + data[at + 512 :]
    yield f"the end is missing, zeros stand there from {at} on", data[:at] + bytes(len(data) - at)


def refused(read, data):
    """The error with which `read(data)` refuses what is not as it was written; None if it does not."""
    try:
        read(data)
    except StaddleError as error:
        return error
    return None


def rewrite(path, change):
    """Change a stored object behind its medium: `change(bytes)` gives the new ones; None removes it."""
    path = pathlib.Path(path)
    path.chmod(0o600)
    data = change(path.read_bytes())
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)


def flip_middle(data):
    """The usual damage: one bit in the middle."""
    changed = bytearray(data)
    changed[len(data) // 2] ^= 4
    return bytes(changed)
