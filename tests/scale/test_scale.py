"""Memory does not grow with the files. STADDLE_SCALE_FULL=1 plays a million of each kind; CI plays fewer of
two kinds, drawn by STADDLE_SEED.

But not so few that a manifest, which has up to SEGMENT_ROWS_MAX rows, would grow with them: that is bounded.
The client may take so many bytes for a file: that is what a million of them leave of its 300 MiB beside the
55 of an idle one. What agent and manager take is bounded by their buffers and not by the files; here it is
only held that it stays within the bounds.
"""

import json
import os
import random
import signal
import subprocess
import sys

import pytest

SCALE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scale.py")
FULL = os.environ.get("STADDLE_SCALE_FULL") == "1"
COUNTS = [1_000_000] if FULL else [33_000, 80_000]
CASES = ["tree", "directory", "links", "list"]
DRAWN = CASES if FULL else sorted(random.Random(os.environ.get("STADDLE_SEED")).sample(CASES, 2))
LIMIT_S = 4 * 3600 if FULL else 1500
END_LIMIT_S = 120
CLIENT_BYTES_PER_FILE = 220
SLACK_MIB = 8
"""Two peaks of the same work differ by so much."""
GROWING = {"first backup", "unchanged backup", "restore", "verify"}
"""`ls` and `find` show every row that they are asked for, up to their own limits."""


if sys.platform == "linux":

    @pytest.mark.timeout(LIMIT_S + 60)
    @pytest.mark.parametrize("case", DRAWN)
    def test_a_great_many_files_take_bounded_memory(case, tmp_path):
        figures = tmp_path / "figures.json"
        argv = [sys.executable, SCALE, "--cases", case, "--files", ",".join(map(str, COUNTS))]
        argv += ["--dir", str(tmp_path), "--json", str(figures)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as playing:
            try:
                said, _ = playing.communicate(timeout=LIMIT_S)
            except BaseException:
                playing.send_signal(signal.SIGINT)  # so that it ends its grid
                playing.communicate(timeout=END_LIMIT_S)
                raise
        assert playing.returncode == 0, said
        peaks_mib = {
            (row["files"], row["step"]): row["client_mib"] for row in json.loads(figures.read_text())
        }
        few, many = COUNTS[0], COUNTS[-1]
        allowed_mib = SLACK_MIB + (many - few) * CLIENT_BYTES_PER_FILE / (1 << 20)
        grown_mib = {step: peaks_mib[many, step] - peaks_mib[few, step] for step in GROWING}
        assert len(peaks_mib) == 6 * len(COUNTS)
        assert max(grown_mib.values()) <= allowed_mib, f"{grown_mib}, allowed {allowed_mib:.1f}"
