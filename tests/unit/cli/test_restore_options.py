"""`restore`: what its options mean, what they refuse, and what is printed."""

import json
import os

import pytest
from click.testing import CliRunner

from staddle.cli import cli
from staddle.client import restore as client_restore
from staddle.client.owners import OwnerOptions
from staddle.client.policy import Action, Item, Overwrite
from staddle.client.restore import RestoreSummary

from .kit import invoke

SUMMARY = RestoreSummary(2, "n", "complete", 5, 1, 100, 0, [], 0, 1.5)


@pytest.fixture
def restored(manager, monkeypatch):
    """Restores end at once with `restored.summary`, after the items in `restored.items`."""

    class Restored:
        summary = SUMMARY
        items = ()
        options = None

    async def run(self):
        Restored.options = self._options
        for item in Restored.items:
            if self._on_item is not None:
                self._on_item(item)
        return Restored.summary

    monkeypatch.setattr(client_restore.Restore, "run", run)
    return Restored


def test_without_options_what_is_there_and_the_same_is_kept_and_nothing_is_deleted(restored):
    invoke("restore", "7", "--to", "/x")
    options = restored.options
    assert (options.overwrite, options.delete, options.dry_run, options.in_place) == (
        Overwrite.IF_CHANGED,
        False,
        False,
        False,
    )
    assert options.owners == OwnerOptions((), (), numeric=False, none=False)
    assert (options.target, options.onto) == (b"/x", b"")


def test_all_options_reach_the_restore(restored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    invoke(
        *("restore", "7", "--in-place", "--overwrite", "if-newer", "--delete", "--yes", "--include", "a"),
        *("--include", "b", "--exclude", "c", "--owner-map", "root:0", "--group-map", "0:0", "--numeric-ids"),
    )
    options = restored.options
    assert (options.target, options.in_place, options.delete) == (b"/", True, True)
    assert (options.include, options.exclude) == (["a", "b"], ["c"])
    assert options.owners == OwnerOptions(("root:0",), ("0:0",), numeric=True, none=False)
    assert options.overwrite is Overwrite.IF_NEWER
    invoke("restore", "7", "/f", "--onto", "device", "--no-owner")
    assert restored.options.onto == os.fsencode(tmp_path / "device")
    assert restored.options.owners.none
    invoke("restore", "7", "/f", "--to", "-")
    assert restored.options.onto == b"-"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--to", "x", "--in-place"],
        ["--to", "x", "--onto", "y"],
        ["--to", "x", "--delete"],
        ["--in-place", "--delete"],
        ["--to", "-", "--json"],
        ["--to", "-", "--verbose"],
        ["--to", "-", "--delete", "--yes"],
        ["--onto", "x", "--dry-run"],
        ["--onto", "x", "--exclude", "a"],
        ["--to", "x", "--no-owner", "--numeric-ids"],
        ["--to", "x", "--no-owner", "--owner-map", "a:b"],
        ["--to", "x", "--owner-map", "nonsense"],
        ["--to", "x", "--group-map", "root:no such group"],
        ["--to", "x", "--overwrite", "sometimes"],
        ["--to", "x", "--exclude", "["],
        ["--to", "x", "--to", "y"],
        ["--to", "x", "--to", "x"],
        ["--onto", "x", "--onto", "y"],
        ["--onto", "x", "--overwrite", "never"],
        ["--to", "-", "--overwrite", "if-newer"],
        ["--onto", "x", "--owner-map", "1:2"],
        ["--to", "x", "--owner-map", "1:2", "--owner-map", "1:3"],
        ["--to", "x", "--group-map", "1:2", "--group-map", "1:3"],
    ],
)
def test_what_contradicts_itself_is_refused(restored, words):
    done = CliRunner().invoke(cli, ["restore", "1", *words], standalone_mode=False)
    assert getattr(done.exception, "exit_code", 0) == 2
    assert restored.options is None


def test_a_map_may_stand_there_twice_if_it_says_the_same(restored):
    invoke("restore", "1", "--to", "/x", "--owner-map", "1:2", "--owner-map", "1:2", "--owner-map", "3:2")
    assert restored.options.owners.user_map == ("1:2", "1:2", "3:2")


def test_the_media_of_the_grid_are_protected_wherever_they_are(restored, manager, tmp_path, monkeypatch):
    from staddle.client import own

    medium = tmp_path / "elsewhere"
    medium.mkdir()
    monkeypatch.setattr(own, "own_places", lambda home: [str(medium)])
    for words in (["--to", str(medium / "below")], ["/f", "--onto", str(medium / "staddle-volume.txt")]):
        done = CliRunner().invoke(cli, ["restore", "1", *words], standalone_mode=False)
        assert "inside a grid's own directory" in str(done.exception)
    assert restored.options is None


def test_a_dry_run_is_itemized(restored):
    restored.items = [Item(Action.NEW, b"/a\n", 3), Item(Action.DELETE, b"/\xff")]
    restored.summary = RestoreSummary(**(vars(SUMMARY) | {"dry_run": True, "deleted": 1, "kept": 2}))
    code, out, _ = invoke("restore", "1", "--to", "/x", "--dry-run", "--delete")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "new     /a\\n"
    assert lines[1] == "delete  /\ufffd"
    assert "would be restored to /x" in lines[2]
    assert "1 would be deleted" in out
    _, out, _ = invoke("restore", "1", "--to", "/x", "--dry-run", "--json")
    items = [json.loads(line) for line in out.splitlines()]
    assert items[0] == {"message_type": "item", "action": "new", "path": "/a\n", "size_bytes": 3}
    assert items[1]["path_bytes"] == "2fff"
    assert (items[-1]["message_type"], items[-1]["dry_run"], items[-1]["kept"]) == ("summary", True, 2)


def test_items_are_printed_only_when_asked_for(restored):
    restored.items = [Item(Action.REPLACE, b"/a", 3)]
    assert "replace" not in invoke("restore", "1", "--to", "/x")[1]
    assert "replace /a" in invoke("restore", "1", "--to", "/x", "-v")[1]


def test_notes_do_not_change_the_exit_code(restored):
    restored.summary = RestoreSummary(
        **(vars(SUMMARY) | {"notes": ["owner not set: only root may: /a"], "unchanged": 4})
    )
    code, out, _ = invoke("restore", "1", "--to", "/x")
    assert code == 0
    assert "note: owner not set: only root may: /a" in out
    assert "4 were there already" in out


def test_with_one_file_to_standard_output_nothing_else_goes_there(restored):
    _, out, err = invoke("restore", "1", "/f", "--to", "-")
    assert out == ""
    assert "restored to -" in err
