"""When a manager's process begins another term, and when it ends."""

import asyncio

import pytest

from staddle.api.types import Lease
from staddle.daemon.manager import main
from staddle.engine.lease import LeaseLapsed, ManagerLease
from staddle.errors import Fenced


def run(monkeypatch, *ends):
    """Play terms that end with these errors (None: in good order); how many began."""
    begun = []

    class Term:
        def __init__(self, settings, stop, floor):
            begun.append(floor)

        async def run(self):
            if (end := ends[len(begun) - 1]) is not None:
                raise end

    monkeypatch.setattr(main, "Term", Term)
    monkeypatch.setattr(main, "load", lambda home: None)
    try:
        asyncio.run(main._main("home"))
    finally:
        print("terms:", begun)
    return begun


def lapsed():
    lease = ManagerLease(7, 100, 20)
    lease.renewed(0)
    with pytest.raises(Fenced) as caught:
        lease.check(80)
    return caught.value


def test_a_process_that_slept_through_its_lease_asks_for_another_term(monkeypatch):
    many = [lapsed() for _ in range(3 * main.TERMS_MAX)]
    assert all(isinstance(each, LeaseLapsed) for each in many)
    assert run(monkeypatch, *many, None) == [0] * (len(many) + 1)


def test_a_lease_that_another_one_has_taken_is_the_end(monkeypatch):
    lease = ManagerLease(7, 100, 20)
    lease.renewed(0)
    lease.fenced()
    with pytest.raises(Fenced) as caught:
        lease.check(10)
    assert not isinstance(caught.value, LeaseLapsed)
    with pytest.raises(Fenced):
        run(monkeypatch, caught.value, None)


def test_a_lost_log_begins_again_above_what_agents_know_and_not_for_ever(monkeypatch):
    outrun = main.Outrun(5, 1, renewable=True)
    assert run(monkeypatch, outrun, None) == [0, 5 + main.EPOCH_JUMP]
    with pytest.raises(main.Outrun):
        run(monkeypatch, main.Outrun(5, 1, renewable=False), None)
    with pytest.raises(Fenced, match="ever higher"):
        run(monkeypatch, *[outrun] * main.TERMS_MAX)


def test_a_renewal_that_fails_for_a_moment_is_tried_again(monkeypatch):
    answers = iter([OSError(24, "Too many open files"), RuntimeError("can't start new thread"), None, None])

    class Cluster:
        def renew(self, lease):
            answer = next(answers, Fenced("the end"))
            if answer is not None:
                raise answer

    class Managing:
        failed = None

    async def play():
        now_ns = main.lease_clock_ns()
        held = ManagerLease(7, 10**12, 1)
        held.renewed(now_ns)
        until_ns = held.until_ns
        managing = Managing()
        managing.failed = asyncio.get_running_loop().create_future()
        term = object.__new__(main.Term)
        await term._renew(managing, Cluster(), Lease(name="manager", holder="1", epoch=7, ttl_s=1.0), held)
        assert held.until_ns > until_ns
        with pytest.raises(Fenced, match="the end"):
            await managing.failed

    monkeypatch.setattr(main, "RENEW_AGAIN_S", 0.01)
    monkeypatch.setattr(main, "LEASE_TTL_S", 0.03)
    asyncio.run(asyncio.wait_for(play(), 10))
