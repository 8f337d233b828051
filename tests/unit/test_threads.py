"""Thread pools that have all their threads from the beginning."""

import threading

import pytest

from staddle.platform.threads import started_pool


def test_all_threads_run_before_the_first_submission_and_none_is_started_later(monkeypatch):
    pool = started_pool(5, "early")
    started = [thread for thread in threading.enumerate() if thread.name.startswith("early")]
    assert len(started) == 5

    def no_thread(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    assert [each.result() for each in [pool.submit(pow, 2, n) for n in range(40)]] == [
        2**n for n in range(40)
    ]
    pool.shutdown()
    assert not any(thread.is_alive() for thread in started)


def test_a_pool_that_does_not_get_its_threads_leaves_none_behind(monkeypatch):
    start, left = threading.Thread.start, [2]

    def few(thread):
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", few)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        started_pool(5, "short")
    for thread in threading.enumerate():
        if thread.name.startswith("short"):
            thread.join(20)
            assert not thread.is_alive()
