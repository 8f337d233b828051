"""docs/operations.md: each failure has its section, and each section its three answers.

That the commands in it exist, with their options, is what tests/test_docs.py checks for every page.
"""

import os
import re

import pytest

from staddle.engine.messages import Cause

from .page import ROOT

with open(os.path.join(ROOT, "docs", "operations.md"), encoding="utf-8") as file:
    TEXT = file.read()
FAILURES = TEXT.split("\n## When something breaks\n", 1)[1].split("\n## ", 1)[0]
SECTIONS = dict(re.findall(r"^### ([^\n]+)\n\n(.+?)(?=^### |\Z)", FAILURES, re.MULTILINE | re.DOTALL))

# What can break, and a word of the section that says what to do.
EXPECTED = {
    "the data process of an agent": ("An agent, or its host", "data process"),
    "the control process of an agent": ("An agent, or its host", "control process"),
    "a host that is cut off": ("A host that is cut off", "one direction"),
    "the manager stands still, and goes on": ("The manager", "silent"),
    "the manager stands still, and does not go on": ("The manager", "staddle down\nstaddle up"),
    "no room for the log": ("The manager", "LOG_FAILED"),
    "a full medium": ("A medium that is full", "medium full"),
    "a read-only medium": ("A medium that is gone, read-only, or answers with errors", "read-only"),
    "a directory that can't be synced": (
        "A medium that is gone, read-only, or answers with errors",
        "synced",
    ),
    "a slow medium": ("A medium that is slow", "deadline_s"),
    "another volume": ("Another volume where a medium should be", "another volume"),
    "damaged or truncated objects": ("Damaged data on a medium", "--repair"),
    "a clock that jumps": ("A clock that jumps", "clock"),
    "a client that was killed": ("A client that was killed", "same job"),
    "the client's disk is full": ("A full disk of a client", "no space left on device"),
    "two clients on one tree": ("Two clients on one tree", "two jobs"),
    "the limit of open files": ("Limits of the system", "open files"),
    "the limit of memory": ("Limits of the system", "memory"),
}


@pytest.mark.parametrize("failure", EXPECTED)
def test_every_failure_is_told(failure):
    heading, word = EXPECTED[failure]
    assert word in SECTIONS[heading]


@pytest.mark.parametrize("heading", SECTIONS)
def test_each_section_says_what_is_seen_what_happens_and_what_to_do(heading):
    rows = re.findall(r"^\| (seen|by itself|you) \|(.*)\|$", SECTIONS[heading], re.MULTILINE)
    assert [name for name, _ in rows] == ["seen", "by itself", "you"]
    assert all(cell.strip() for name, cell in rows if name != "you")


@pytest.mark.parametrize("cause", ["agent_lost", "agent_silent", "medium_lost", "medium_full", "path_slow"])
def test_every_cause_of_a_failover_is_named_as_the_commands_print_it(cause):
    assert f"`{Cause(cause).value.replace('_', ' ')}`" in FAILURES
