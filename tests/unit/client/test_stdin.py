"""Streams from a pipe or a command: their records, their end, and what can go wrong with either."""

import io
import os
import stat
import sys
import threading
import time

import pytest

from staddle.client.pump import Interruptible
from staddle.client.stdin import CommandFailed, StreamSource, stream_path
from staddle.client.units import Tally
from staddle.data.records import PAYLOAD_BYTES_MAX, EntryType, PartRecord, decode_record
from staddle.errors import Cancelled, StaddleError, UsageError


def python(code):
    return [sys.executable, "-c", code]


def read(command, tally=None):
    """The records of a command's output, decoded, with their payloads."""
    source = StreamSource("dump.sql", tally or Tally(), command)
    found = [(decode_record(each.meta, len(each.payload)), bytes(each.payload)) for each in source]
    assert all(isinstance(record, PartRecord) for record, _ in found)
    return found


@pytest.mark.parametrize(
    "length",
    [0, 1, PAYLOAD_BYTES_MAX - 1, PAYLOAD_BYTES_MAX, 2 * PAYLOAD_BYTES_MAX, 3 * PAYLOAD_BYTES_MAX + 7],
)
def test_a_stream_of_any_length_comes_in_parts_without_a_gap(length):
    tally, before_ns = Tally(), time.time_ns()
    repeat = length // 251 + 1
    code = f"import sys; sys.stdout.buffer.write((bytes(range(251)) * {repeat})[:{length}])"
    found = read(python(code), tally)
    data = b"".join(payload for _, payload in found)
    assert data == (bytes(range(251)) * repeat)[:length]
    offset = 0
    for record, payload in found:
        assert record.offset == offset
        offset += len(payload)
    assert [record.last for record, _ in found] == [False] * (len(found) - 1) + [True]
    batch = found[-1][0].batch
    assert batch.paths() == [b"/dump.sql"]
    columns = {name: int(values[0]) for name, values in batch.columns.items()}
    assert columns["type"] == EntryType.STREAM
    assert columns["size"] == length
    assert columns["mode"] == 0o600
    assert before_ns <= columns["mtime_ns"] <= time.time_ns()
    assert (tally.files, tally.bytes_read, tally.warnings) == (1, length, 0)


def test_standard_input_is_read_to_its_end(monkeypatch):
    reader, writer = os.pipe()
    os.write(writer, b"piped data")
    os.close(writer)
    monkeypatch.setattr("staddle.client.stdin._standard_input", lambda: reader)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    [record] = StreamSource("x", Tally())
    os.close(reader)
    assert bytes(record.payload) == b"piped data"


def test_a_closed_standard_input_is_no_empty_stream(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="standard input is closed"):
        StreamSource("x", Tally())
    StreamSource("x", Tally(), python("pass"))


def test_a_terminal_is_no_data(monkeypatch):
    class Terminal:
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    with pytest.raises(UsageError, match="terminal"):
        StreamSource("x", Tally())


@pytest.mark.parametrize(
    ("code", "said"), [("raise SystemExit(7)", "exit code 7"), ("import os; os.abort()", "signal 6")]
)
def test_a_command_that_fails_never_gives_a_last_record(code, said):
    source = StreamSource("x", Tally(), python("print('half of it', flush=True); " + code))
    got = []
    with pytest.raises(CommandFailed, match=said):
        got.extend(source)
    assert not got
    assert not any(decode_record(each.meta, len(each.payload)).last for each in got)


def test_a_command_that_fails_after_much_gives_all_but_the_last_record():
    code = f"import sys; sys.stdout.buffer.write(bytes({2 * PAYLOAD_BYTES_MAX + 5})); raise SystemExit(1)"
    got = []
    with pytest.raises(CommandFailed, match="not complete"):
        got.extend(StreamSource("x", Tally(), python(code)))
    assert [decode_record(each.meta, len(each.payload)).last for each in got] == [False, False]


def test_a_command_that_is_not_there_is_a_usage_error():
    with pytest.raises(UsageError, match="no-such-program"):
        StreamSource("x", Tally(), ["no-such-program"])


@pytest.mark.skipif(sys.platform == "win32", reason="modes decide what can be run only on POSIX")
def test_a_program_that_cant_be_started_is_told(tmp_path):
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF nonsense")
    broken.chmod(stat.S_IRWXU)
    with pytest.raises(CommandFailed, match="could not be started"):
        list(StreamSource("x", Tally(), [str(broken)]))


def test_a_reader_that_waits_is_interrupted_and_its_command_ended():
    source = StreamSource("x", Tally(), python("import time; print('x', flush=True); time.sleep(600)"))
    assert isinstance(source, Interruptible)
    errors = []

    def consume():
        try:
            list(source)
        except StaddleError as error:
            errors.append(error)

    thread = threading.Thread(target=consume)
    thread.start()
    while source._process is None:
        time.sleep(0.01)
    source.interrupt()
    thread.join(60)
    assert not thread.is_alive()
    assert isinstance(errors[0], Cancelled | CommandFailed)
    assert source._process.returncode is not None


def test_what_a_failover_asks_for_again_is_the_very_same():
    source = StreamSource("x", Tally(), python("print('data')"))
    records = list(source)
    assert list(source.remake(records, [b"c" * 16])) == records


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "../a", "a\0b", "x" * 256])
def test_what_can_be_no_name_is_refused(name):
    with pytest.raises(UsageError, match="is no name for a stream") as caught:
        stream_path(name)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["a", "...", "dump 1.sql", "ü", "x" * 255])
def test_what_can_be_a_name_is_one(name):
    assert stream_path(name) == b"/" + os.fsencode(name)
