"""What is the example's own, beside the clauses: room, long lists, crashes in mid-way, odd paths, locks."""

import os
import sqlite3
import time
from contextlib import closing

import pytest
from media_cases import LABEL, Case, names, new_name, only, put, soon, text_of, whole

from staddle import errors
from staddle.api.media import Deadline

EXAMPLE_ONLY = only("example")
PATHS = ["100% full", "a#b", "ünï cödé", "%41", *([] if os.name == "nt" else ["what?mode=memory"])]


def file_of(case):
    return os.path.join(case.where, "objects.sqlite")


@EXAMPLE_ONLY
def test_a_full_disk_is_a_full_medium_and_nothing_is_visible(case, volume, monkeypatch):
    put(volume, new_name(), b"x" * 100_000)
    connect = sqlite3.connect

    def small(*arguments, **options):
        database = connect(*arguments, **options)
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages + 2}")
        return database

    monkeypatch.setattr(sqlite3, "connect", small)
    name = new_name()
    with pytest.raises(errors.MediumFull) as caught:
        put(volume, name, b"y" * 100_000)
    assert caught.value.retry == "elsewhere"
    assert name not in names(volume)
    monkeypatch.undo()
    assert put(volume, name, b"y" * 100_000).size_bytes == 100_000


@EXAMPLE_ONLY
def test_a_list_of_several_pages_is_complete(case, volume):
    stored = sorted(new_name() for _ in range(2500))
    with closing(sqlite3.connect(file_of(case))) as database, database:
        database.executemany("INSERT INTO object VALUES (?, x'')", [(name,) for name in stored])
    assert names(volume) == stored
    assert names(volume, stored[1200], "c0/") == stored[1201:]


@EXAMPLE_ONLY
def test_a_volume_that_was_prepared_but_not_labelled_is_new(blank):
    os.mkdir(blank.where)
    for prepare in (lambda: open(file_of(blank), "w").close(), lambda: blank.medium().prepare(soon())):
        prepare()
        with pytest.raises(errors.NotFound):
            blank.medium().read_label(soon())
    blank.medium().initialize(LABEL, text_of(LABEL), soon())
    assert names(blank.open()) == []


@EXAMPLE_ONLY
def test_the_label_is_plain_text_to_any_sqlite(case):
    with closing(sqlite3.connect(file_of(case))) as database:
        sql = "SELECT body FROM object WHERE key = 'staddle-volume.txt'"
        assert database.execute(sql).fetchall() == [(text_of(LABEL),)]


@pytest.mark.parametrize("path", PATHS)
@EXAMPLE_ONLY
def test_any_path_will_do(blank, tmp_path, path):
    case = Case("example", tmp_path / path)
    case.medium().initialize(LABEL, text_of(LABEL), soon())
    name = new_name()
    put(case.open(), name, b"x")
    assert whole(case.open(), name) == b"x"
    assert os.listdir(tmp_path / path) == ["objects.sqlite"]


@EXAMPLE_ONLY
def test_a_lock_that_somebody_keeps_ends_the_wait_at_the_deadline(case, volume):
    with closing(sqlite3.connect(file_of(case), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        begun_s = time.monotonic()
        with pytest.raises(errors.MediumFailed):
            put(volume, name := new_name(), b"x", deadline=Deadline(0.3))
        assert time.monotonic() - begun_s < 10
    assert name not in names(volume)
