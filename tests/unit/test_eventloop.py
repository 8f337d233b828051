"""Without a descriptor for its event loop a command or daemon ends with one error, and says nothing else."""

import asyncio
import errno
import gc
import selectors
import socket

import pytest

from staddle.cli.session import with_grid
from staddle.client import connection
from staddle.daemon import loops
from staddle.platform.eventloop import run_loop


async def answer():
    await asyncio.sleep(0)
    return 42


def no_room(*_args, **_options):
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.fixture(params=["socketpair", "selector"])
def full(request, monkeypatch):
    if request.param == "socketpair":
        monkeypatch.setattr(socket, "socketpair", no_room)
    else:
        monkeypatch.setattr(selectors, "DefaultSelector", no_room)


@pytest.mark.parametrize("run", [run_loop, loops.run])
def test_without_a_descriptor_there_is_one_error(full, run):
    with pytest.raises(OSError, match="Too many open files"):
        run(answer())
    gc.collect()  # what would complain of itself makes this test fail


def test_a_command_is_refused_in_the_same_way(full, monkeypatch):
    monkeypatch.setattr(connection, "find_settings", lambda home: None)
    with pytest.raises(OSError, match="Too many open files"):
        with_grid(None, lambda grid: answer())
    gc.collect()


@pytest.mark.parametrize("run", [run_loop, loops.run])
def test_with_room_it_runs(run):
    assert run(answer()) == 42
