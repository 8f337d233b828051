"""Logs: what reaches stderr and what reaches the file."""

import errno
import io
import json
import logging
import sys
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staddle.errors import MediumFull
from staddle.obs import logs


@pytest.fixture
def log_path(tmp_path):
    path = tmp_path / "agent.jsonl"
    root = logging.getLogger()
    level = root.level
    logs.configure("agent a1", path=str(path))
    yield path
    logs.shutdown()
    root.setLevel(level)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def record(message, **extra):
    made = logging.LogRecord("staddle.test", logging.INFO, __file__, 1, message, None, None)
    made.__dict__.update(extra)
    return made


def test_a_message_reaches_stderr_as_text_and_the_file_as_json(log_path, capfd):
    logging.getLogger("staddle.test").warning("path %s lost", "p1", extra={"job": 7, "name_": "x"})
    (line,) = lines(log_path)
    assert line["message"] == "path p1 lost"
    assert (line["level"], line["logger"], line["component"]) == ("WARNING", "staddle.test", "agent a1")
    assert line["job"] == 7
    assert datetime.fromisoformat(line["time"]).utcoffset().total_seconds() == 0


def test_text_has_a_time_with_offset_and_one_line():
    text = logs.TextFormatter().format(record("two\nlines \x1b[31m é\tok"))
    stamp, rest = text.split(" ", 1)
    assert datetime.fromisoformat(stamp).tzinfo is not None
    assert rest == "INFO    staddle.test: two\\x0alines \\x1b[31m é\tok"


def test_an_error_keeps_its_fields(log_path):
    full = MediumFull("shelf is full", hint="add room")
    logging.getLogger("staddle.test").error("put failed", exc_info=full)
    (line,) = lines(log_path)
    assert line["error"]["code"] == "MEDIUM_FULL"
    assert line["error"]["hint"] == "add room"
    assert line["error"]["retry"] == "elsewhere"
    assert line["traceback"].startswith("staddle.errors.MediumFull")


def test_extra_cannot_overwrite_a_field_of_the_line():
    line = json.loads(logs.JsonFormatter("manager").format(record("m", level="fake", path=b"a\xff")))
    assert line["level"] == "INFO"
    assert line["level_"] == "fake"
    assert line["path"] == "a\udcff"


@given(st.text(), st.binary())
def test_any_message_is_one_ascii_line(message, name):
    line = logs.JsonFormatter("x").format(record(message.replace("%", "%%"), name_bytes=name))
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["logger"] == "staddle.test"


def test_the_file_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "FILE_BYTES_MAX", 2_000)
    root = logging.getLogger()
    level = root.level
    logs.configure("x", path=str(tmp_path / "x.jsonl"))
    try:
        for number in range(200):
            logging.getLogger("staddle.test").info("number %d", number)
    finally:
        logs.shutdown()
        root.setLevel(level)
    files = list(tmp_path.iterdir())
    assert len(files) == logs.FILES_KEPT + 1
    assert all(file.stat().st_size <= 2_000 for file in files)


def test_configure_again_replaces_its_own_handlers_only(log_path, tmp_path):
    before = len(logging.getLogger().handlers)
    logs.configure("again", path=str(tmp_path / "again.jsonl"))
    logging.getLogger("staddle.test").info("once")
    assert len(logging.getLogger().handlers) == before
    assert lines(log_path) == []
    assert len(lines(tmp_path / "again.jsonl")) == 1


def test_an_unknown_level_is_refused_and_changes_nothing(log_path):
    with pytest.raises(ValueError, match="LOUD"):
        logs.configure("x", level="LOUD")
    logging.getLogger("staddle.test").info("still here")
    assert len(lines(log_path)) == 1


def test_standard_error_in_a_file_begins_anew_before_it_fills_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "FILE_BYTES_MAX", 100_000)
    path = tmp_path / "manager.out"
    with open(path, "a", encoding="utf-8") as stream:
        handler = logs.BoundedStream(stream)
        for number in range(5001):
            handler.emit(logging.LogRecord("x", logging.INFO, "", 0, "y" * 200, None, None))
            if number % 1000 == 500:
                assert path.stat().st_size < 400_000
    assert path.read_bytes().startswith(b"yyy")
    handler = logs.BoundedStream(io.StringIO())
    for _ in range(2000):
        handler.emit(logging.LogRecord("x", logging.INFO, "", 0, "z", None, None))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/var/x"),
        OSError(errno.EMFILE, "Too many open files"),
        RuntimeError("can't start new thread"),
        MemoryError(),
    ],
)
def test_a_shortage_is_told_in_its_own_words_to_people_and_with_its_lines_to_programs(error):
    def line(formatter, error):
        try:
            raise error  # noqa: TRY301
        except Exception:  # noqa: BLE001
            record = logging.LogRecord("x", logging.ERROR, "p", 1, "it failed", (), sys.exc_info())
        return formatter.format(record)

    text = line(logs.TextFormatter(), error)
    assert text.endswith(f"it failed\n{type(error).__name__}: {error}")
    assert "Traceback" in json.loads(line(logs.JsonFormatter("x"), error))["traceback"]
    assert "Traceback" in line(logs.TextFormatter(), ValueError("a slip"))
    assert "Traceback" in line(logs.TextFormatter(), FileNotFoundError(errno.ENOENT, "no file"))
