"""Types are met for the first time by many threads at once, as manifests and requests are."""

import subprocess
import sys

import msgspec
import pytest

from staddle import typed

STORM = """
import sys, threading
import msgspec
from staddle import typed

sys.setswitchinterval(1e-6)
for number in range(150):
    inner = msgspec.defstruct(f"I{number}", [(f"a{i}", dict[str, list[int]]) for i in range(30)])
    middle = msgspec.defstruct(f"M{number}", [(f"b{i}", list[inner]) for i in range(30)])
    outer = msgspec.defstruct(f"O{number}", [("m", middle), ("k", dict[str, inner])])
    plain = {"m": {f"b{i}": [] for i in range(30)}, "k": {}}
    blob = msgspec.msgpack.encode(plain)
    start = threading.Barrier(4)

    def go(which):
        start.wait()
        found = typed.unpack(blob, outer) if which % 2 else typed.convert(plain, outer)
        assert found.k == {}

    threads = [threading.Thread(target=go, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print("alive")
"""


def test_many_threads_may_meet_a_type_at_once():
    done = subprocess.run(
        [sys.executable, "-c", STORM], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


class Point(msgspec.Struct):
    x: int
    y: bytes = b""


def test_each_door_checks_its_type():
    assert typed.unpack(msgspec.msgpack.encode({"x": 1, "y": b"\0"}), Point) == Point(1, b"\0")
    assert typed.from_json(b'{"x": 2}', Point) == Point(2)
    assert typed.convert({"x": 3, "y": b"z"}, Point, builtin_types=(bytes,)) == Point(3, b"z")
    assert typed.decoder(Point) is typed.decoder(Point)
    for call, value in ((typed.unpack, b"\xc0"), (typed.from_json, b"[]"), (typed.convert, {"x": "no"})):
        with pytest.raises(msgspec.MsgspecError):
            call(value, Point)
