"""Memory that a process has freed goes back to the system before too much of it is scattered."""

import subprocess
import sys

import pytest

CHILD = """
import sys, time
from staddle.platform import memory
memory.keep_freed(1 << 30)
if sys.argv[1] == "trimmed":
    memory.trim_above(64 << 20)
buffers = [bytearray(100_000) for _ in range(1500)]
most = memory.resident_bytes()
kept = buffers[::16]  # so that nothing between them lies at the heap's end
del buffers
end = time.monotonic() + (60 if sys.argv[1] == "trimmed" else 2)
while memory.resident_bytes() > 64 << 20 and time.monotonic() < end:
    time.sleep(0.1)
print(most >> 20, memory.resident_bytes() >> 20)
"""

if sys.platform == "linux":

    @pytest.mark.parametrize("how", ["trimmed", "kept"])
    def test_freed_memory_is_given_back_above_the_limit(how):
        done = subprocess.run(
            [sys.executable, "-c", CHILD, how], capture_output=True, text=True, timeout=120, check=True
        )
        most, now = map(int, done.stdout.split())
        assert most > 140
        assert (now <= 64) == (how == "trimmed"), f"{now} MiB of {most} are left"
