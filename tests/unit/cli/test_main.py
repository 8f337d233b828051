"""The entry point: whatever ends a command is said."""

import errno
import os
import sys

import pytest

from staddle.cli import main


def test_a_connection_that_breaks_is_not_taken_for_a_reader_that_went_away(monkeypatch, capsys):
    def broken(*_, **__):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr("staddle.cli.browse.query", broken)
    monkeypatch.setattr(sys, "argv", ["staddle", "sql", "SELECT 1"])
    with pytest.raises(SystemExit):
        main()
    assert "BrokenPipeError at test_main.py" in capsys.readouterr().err
