"""The demonstration that a newcomer sees first, once."""

import json
import subprocess
import sys


def test_the_demo_ends_well():
    done = subprocess.run(
        [sys.executable, "-m", "staddle", "demo", "--json"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    print(done.stderr)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["identical"] is True
    assert summary["rebuild_diff_rows"] == 0
    assert summary["job"] == 1
    assert summary["files"] > 100
    assert 0 < summary["bytes_stored"] < summary["bytes"]
    for each in summary["failovers"]:
        assert set(each) == {"cause", "from", "to", "gap_s", "bytes_resent"}
    causes = {each["cause"] for each in summary["failovers"]}
    assert "medium_lost" in causes
    assert causes & {"agent_lost", "agent_silent"}
    assert summary["duration_s"] > 0
