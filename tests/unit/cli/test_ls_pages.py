"""`ls` of a directory that is longer than a page shows all of it, page by page."""

import json

import pytest

from staddle.cli import browse
from staddle.wire.ops.jobs import Rows

from .kit import ENTRY, entry, invoke

NAMES = [b"%03d" % number for number in range(12)]


@pytest.fixture(params=[1, 4, 5, 12, 13])
def asked(request, manager, monkeypatch):
    """Pages of so many rows; what was asked for."""
    monkeypatch.setattr(browse, "_PAGE_ROWS", request.param)
    requests = []

    def answer(args):
        requests.append(args)
        page = [name for name in NAMES if name > args.after][: args.limit]
        return Rows(ENTRY, [entry(b"/d/" + name) for name in page])

    manager.answers["catalog.ls"] = answer
    return requests


def test_all_pages_are_one_document(asked):
    code, out, _ = invoke("ls", "1", "/d", "--json")
    assert code == 0
    assert [each["path"] for each in json.loads(out)] == ["/d/" + name.decode() for name in NAMES]
    assert {args.limit for args in asked} == {browse._PAGE_ROWS}


def test_all_pages_are_shown(asked):
    code, out, _ = invoke("ls", "1", "/d")
    assert code == 0
    assert [line.rpartition("/")[2] for line in out.splitlines()] == [name.decode() for name in NAMES]


def test_an_empty_directory_is_an_empty_document(manager):
    manager.answers["catalog.ls"] = Rows(ENTRY, [])
    assert json.loads(invoke("ls", "1", "/d", "--json")[1]) == []
    assert invoke("ls", "1", "/d")[1] == ""


def test_a_manager_that_knows_no_pages_is_asked_twice_at_most_and_shown_once(manager, monkeypatch):
    monkeypatch.setattr(browse, "_PAGE_ROWS", 5)
    manager.answers["catalog.ls"] = Rows(ENTRY, [entry(b"/d/" + name) for name in NAMES])
    _, out, _ = invoke("ls", "1", "/d", "--json")
    assert len(manager.requests) <= 2
    assert [each["path"] for each in json.loads(out)] == ["/d/" + name.decode() for name in NAMES]
