"""What every test gets: a printed seed, calm hypothesis settings, and the list of what is left out."""

import contextlib
import json
import os
import random
import sys

import pytest
from hypothesis import settings

# The machine may be busy, so time is no failure; a failing example prints the line that replays it.
settings.register_profile("staddle", deadline=None, print_blob=True)
settings.load_profile("staddle")

SEED = int(os.environ.get("STADDLE_SEED") or random.SystemRandom().getrandbits(32))
os.environ["STADDLE_SEED"] = str(SEED)  # whoever asks for it later is told the same
LEFT_OUT = json.loads(os.environ.get("STADDLE_LEFT_OUT") or "{}")  # marker -> reason, from dev.py
IN_CI = os.environ.get("CI", "").lower() == "true"

_left_out = {marker: [] for marker in LEFT_OUT}


@pytest.fixture
def seed(request):
    """An integer of this test's own, the same whenever STADDLE_SEED is; a failure shows how to replay it."""
    print(f"replay: STADDLE_SEED={SEED} {os.path.basename(sys.executable)} -m pytest '{request.node.nodeid}'")
    return random.Random(f"{SEED} {request.node.nodeid}").getrandbits(64)


def pytest_report_header():
    return f"staddle: STADDLE_SEED={SEED}"


def pytest_collection_modifyitems(config, items):
    """Leave out the tests of components that dev.py could not provide."""
    kept, gone = [], []
    for item in items:
        marker = next((name for name in LEFT_OUT if item.get_closest_marker(name)), None)
        if marker:
            _left_out[marker].append(item.nodeid)
        (gone if marker else kept).append(item)
    if gone:
        config.hook.pytest_deselected(items=gone)
        items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """In CI a skip is a failure: what is not run is not proved."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    """The same for a module that skips itself."""
    report = yield
    if IN_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be: {report.longrepr}"
    return report


def pytest_sessionfinish(session):
    """In a process of several: tell the one that writes the summary. Each has collected all tests."""
    with contextlib.suppress(AttributeError):
        session.config.workeroutput["left_out"] = _left_out


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    _left_out.update(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter):
    for marker, nodes in _left_out.items():
        if nodes:
            terminalreporter.section(f"left out: {len(nodes)} tests marked {marker}")
            terminalreporter.line(LEFT_OUT[marker])
            for node in nodes:
                terminalreporter.line(f"  {node}")
