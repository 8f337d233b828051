"""A scene to be broken, as a fixture; the way to the modules that importlib mode does not find; and what of
the scenarios is played here and now.

A scenario that needs more than a process has (a mount, a network namespace) is left out, with the reason,
where that is not to be had. One marked `only_in_soak` is played by `dev.py soak`, or when it is named on the
command line; of all these a run of everything plays a few, drawn by STADDLE_SEED.
"""

import os
import random
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

from scene import Scene  # noqa: E402 - found by the path above
from unusual import reason_against  # noqa: E402

DRAWN = 2
"""So many of the scenarios that only the soak plays are played in a run of everything."""

_left_out = {}


@pytest.fixture
def scene(tmp_path, seed):
    """Three agents, three media, two copies; 40 MiB that take some seven seconds."""
    with Scene(tmp_path, seed) as made:
        yield made


def pytest_collection_modifyitems(config, items):
    gone = set()
    if not any(HERE in os.path.abspath(str(word).partition("::")[0]) for word in config.args):
        rest = [item for item in items if _marked(item, "only_in_soak")]
        seed = os.environ.get("STADDLE_SEED", "")
        drawn = random.Random(f"{seed} soak").sample(rest, min(DRAWN, len(rest)))
        gone.update(item for item in rest if item not in drawn)
    gone.update(item for item in items if item not in gone and _impossible(item))
    if gone:
        config.hook.pytest_deselected(items=[item for item in items if item in gone])
        items[:] = [item for item in items if item not in gone]


def _marked(item, name):
    return getattr(getattr(item, "function", None), name, None)


def _impossible(item):
    for need in _marked(item, "needs") or ():
        if reason := reason_against(need):
            if os.environ.get("CI", "").lower() == "true":
                raise pytest.UsageError(f"CI leaves no test out, but for {item.nodeid}: {reason}")
            _left_out[item.nodeid] = reason
            return True
    return False


def pytest_terminal_summary(terminalreporter):
    if _left_out:
        terminalreporter.section(f"left out: {len(_left_out)} tests of the system")
        for node, reason in _left_out.items():
            terminalreporter.line(f"  {node}: {reason}")
