"""Ctrl-C while `up` starts the daemons: it takes back what it has started, and nothing runs on unknown."""

import os
import random
import signal
import subprocess
import time

from leaks import of_home
from unusual import needs, only_in_soak

from staddle.demo.grid import STADDLE, RealGrid

LIMIT_S = 60.0


@needs("linux")
@only_in_soak
def test_an_up_that_is_interrupted_leaves_no_process(tmp_path, seed):
    rng = random.Random(seed)
    with RealGrid(os.path.join(tmp_path, "grid")) as grid:
        grid.init(2)
        # From the first process on: the manager, whose data nobody can name yet, or agents as well.
        for wanted in (1, rng.randrange(2, 7)):
            up = subprocess.Popen([*STADDLE, "up"], env=grid.environment, stderr=subprocess.PIPE)
            wait_for(grid.home, wanted, up)
            up.send_signal(signal.SIGINT)
            said = up.communicate(timeout=LIMIT_S)[1].decode()
            assert "Traceback" not in said
            if up.returncode:  # else it was ready before it could be interrupted
                assert of_home(grid.home) == [], said
                assert up.returncode == 130
            grid.down()
        grid.up()


def wait_for(home, count, up):
    end = time.monotonic() + LIMIT_S
    while len(of_home(home)) < count and up.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
