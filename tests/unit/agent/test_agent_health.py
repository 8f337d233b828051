"""The watch over an agent's media: one that hangs or fails is seen, and recovers."""

import threading
import time

import pytest

from staddle.api.media import Deadline
from staddle.api.types import Label
from staddle.daemon.agent import health
from staddle.daemon.agent.health import MediumWatch
from staddle.data import label as label_format
from staddle.media.directory import DirectoryMedium
from staddle.media.memory import MemoryMedium, Store
from staddle.media.options import DirectoryConfig, MemoryConfig

LABEL = Label(grid=b"g" * 16, medium="m", volume=b"v" * 16, created_ns=1)


class Moody:
    """A medium whose health check runs `mood` first."""

    def __init__(self, inner):
        self.inner = inner
        self.mood = lambda: None

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def health(self, deadline):
        self.mood()
        return self.inner.health(deadline)


@pytest.fixture
def watched(monkeypatch):
    """A labelled medium and its watch, with short limits."""
    monkeypatch.setattr(health, "CHECK_EVERY_S", 0.02)
    monkeypatch.setattr(health, "SUSPECT_AFTER_S", 0.1)
    medium = Moody(MemoryMedium("watched", MemoryConfig()))
    medium.initialize(LABEL, label_format.encode(LABEL), Deadline(5.0))
    watch = MediumWatch("watched", medium, 0.4)
    watch.start()
    yield medium, watch
    watch.stop()
    watch.close(5.0)
    Store.forget("watched")


def wait_for(watch, state, limit_s=5.0):
    end_s = time.monotonic() + limit_s
    while watch.report().state != state:
        assert time.monotonic() < end_s, watch.report()
        time.sleep(0.01)
    return watch.report()


def test_a_good_medium_is_up_and_its_room_is_known(watched):
    _, watch = watched
    report = wait_for(watch, "up")
    assert report.total_bytes > 0
    assert not report.low


def test_one_that_raises_anything_is_offline_until_it_answers_again(watched):
    medium, watch = watched
    wait_for(watch, "up")

    def broken():
        raise OSError(5, "Input/output error")

    medium.mood = broken
    assert "Input/output error" in wait_for(watch, "offline").message
    medium.mood = lambda: None
    wait_for(watch, "up")


def test_one_that_hangs_is_suspect_then_offline_and_reports_never_wait(watched):
    medium, watch = watched
    wait_for(watch, "up")
    free = threading.Event()
    medium.mood = lambda: free.wait(20.0)
    wait_for(watch, "suspect")
    begun_s = time.monotonic()
    assert "has not answered" in wait_for(watch, "offline").message
    watch.report()
    assert time.monotonic() - begun_s < 5.0
    free.set()
    wait_for(watch, "up")


def test_a_place_without_a_label_is_no_fault(monkeypatch):
    monkeypatch.setattr(health, "CHECK_EVERY_S", 0.02)
    watch = MediumWatch("empty", MemoryMedium("empty", MemoryConfig()), 1.0)
    assert watch.report().state == "suspect", "nobody has looked yet"
    watch.start()
    report = wait_for(watch, "up")
    assert report.total_bytes == 0
    watch.stop()
    watch.close(5.0)
    Store.forget("empty")


def test_the_right_volume_is_seen_again_after_a_wrong_one(monkeypatch, tmp_path):
    monkeypatch.setattr(health, "CHECK_EVERY_S", 0.02)
    here, away = tmp_path / "here", tmp_path / "away"
    for path, volume in ((away, b"w"), (here, b"r")):
        path.mkdir()
        label = Label(grid=b"g" * 16, medium="m", volume=volume * 16, created_ns=1)
        medium = DirectoryMedium("m", DirectoryConfig(path=str(path)))
        medium.initialize(label, label_format.encode(label), Deadline(5.0))
        medium.close()
    medium = DirectoryMedium("m", DirectoryConfig(path=str(here)))
    watch = MediumWatch("m", medium, 5.0)
    watch.start()
    try:
        wait_for(watch, "up")
        here.rename(tmp_path / "aside")
        wait_for(watch, "offline")
        away.rename(here)
        wait_for(watch, "up")
        here.rename(away)
        wait_for(watch, "offline")
        (tmp_path / "aside").rename(here)
        wait_for(watch, "up")
    finally:
        watch.stop()
        watch.close(5.0)
        medium.close()
