"""A Ctrl-C that comes while a process is started counts once it is known; one that is ignored never does."""

import signal

import pytest

from staddle.platform import process


@pytest.fixture
def handled():
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("handled")
def test_an_interruption_comes_after_the_body():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    done = []

    def interrupted():
        with process.interrupted_later():
            signal.raise_signal(signal.SIGINT)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("handled")
def test_where_interruptions_are_ignored_none_comes():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with process.interrupted_later():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
