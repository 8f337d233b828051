"""Every medium at hand, as a fixture."""

import os
import sys

import pytest

from staddle.media.memory import Store

# The tests of this directory share modules, which importlib mode does not find by itself.
sys.path.insert(0, os.path.dirname(__file__))

from media_cases import EXAMPLE, LABEL, Case, soon, text_of


@pytest.fixture(params=["directory", "memory", "example"])
def blank(request, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE))
    where = tmp_path / "volume ü #1"
    case = Case(request.param, where)
    yield case
    for store in [name for name in Store._all if name.startswith(case.where)]:
        Store.forget(store)


@pytest.fixture
def case(blank):
    blank.medium().initialize(LABEL, text_of(LABEL), soon())
    return blank


@pytest.fixture
def volume(case):
    return case.open()
