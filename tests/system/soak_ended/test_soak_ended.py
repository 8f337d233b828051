"""A soak that is told to end ends its grid, too: nothing of it runs on."""

import os
import signal
import subprocess
import sys
import time

import pytest
from leaks import of_home
from unusual import needs, only_in_soak

SOAK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "soak.py")
DAEMONS = 8
"""Of three agents and a manager."""
LIMIT_S = 120.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@needs("linux")
@only_in_soak
def test_a_soak_that_is_told_to_end_leaves_no_process(tmp_path, number):
    soak = subprocess.Popen(
        [sys.executable, SOAK, "--rounds", "1", "--only", "agent_stopped"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        end = time.monotonic() + LIMIT_S
        while len(of_home(str(tmp_path))) < DAEMONS:
            assert soak.poll() is None, soak.communicate()[0]
            assert time.monotonic() < end, f"the grid did not begin: {of_home(str(tmp_path))}"
            time.sleep(0.1)
        soak.send_signal(number)
        said = soak.communicate(timeout=LIMIT_S)[0]
        assert soak.returncode != 0, said
        assert of_home(str(tmp_path)) == [], said
    finally:
        soak.kill()
        soak.wait(10.0)
        soak.stdout.close()
