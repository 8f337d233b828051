"""Globs as linear expressions: they match what the database's GLOB matches, in time."""

import time

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staddle.catalog.globs import glob_regex

ALPHABET = "ab-]![*?\\/."


@pytest.fixture(scope="module")
def connection():
    with duckdb.connect() as opened:
        yield opened


def matches(connection, text, pattern, test):
    return connection.execute(f"SELECT {test}", [text, pattern]).fetchone()[0]


@settings(max_examples=300)
@given(text=st.text("ab-]!/.*[", max_size=8), pattern=st.text(ALPHABET, max_size=8))
def test_the_expression_matches_what_glob_matches(connection, text, pattern):
    wanted = matches(connection, text, pattern, "? GLOB ?")
    assert matches(connection, text, glob_regex(pattern), "regexp_full_match(?, ?)") == wanted


@given(pattern=st.text(max_size=30), text=st.text(max_size=10))
def test_any_text_is_a_pattern(connection, pattern, text):
    found = matches(connection, text, glob_regex(pattern), "regexp_full_match(?, ?)")
    assert found in {True, False}


def test_characters_not_bytes_are_counted_and_lines_end_nothing(connection):
    for text, pattern in (("ü", "?"), ("a\nb", "a*b"), ("ä", "[à-ü]"), ("x", "[!à-ü]"), ("*", "\\*")):
        assert matches(connection, text, glob_regex(pattern), "regexp_full_match(?, ?)"), (text, pattern)


def test_a_pattern_that_is_made_to_hang_does_not(connection):
    started = time.process_time()
    pattern = glob_regex("*a" * 32 + "b")
    connection.execute("CREATE TABLE t AS SELECT repeat('a', 250) AS name FROM range(20000)")
    found = connection.execute("SELECT count(*) FROM t WHERE regexp_full_match(name, ?)", [pattern])
    assert found.fetchone() == (0,)
    print(f"{time.process_time() - started:.2f} s")
