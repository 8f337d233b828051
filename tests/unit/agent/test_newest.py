"""Which backup `latest` is: never one of another client's that has the same name."""

import os

import msgspec
import pytest
from agentkit import back_up, make_tree, running
from hostilekit import as_peer, in_loop

from staddle.errors import NotFound, UsageError
from staddle.wire.ops.reading import OPEN_BACKUP, OpenBackup


@in_loop
async def test_the_newest_backup_of_a_client_is_not_another_clients_newer_one(tmp_path):
    async with running(tmp_path / "h") as grid:
        tree = tmp_path / "tree"
        tree.mkdir()
        make_tree(tree, 1, files=3, big=1 << 20)
        opened, _, _ = await back_up(grid, os.fsencode(tree))
        other = await as_peer(grid, "c2")
        try:
            for newest in (OpenBackup(), OpenBackup(name=grid.manager.state.backups[1].name)):
                with pytest.raises(NotFound):
                    await other.request(OPEN_BACKUP.name, newest)
        finally:
            await other.close()
        assert opened.created.backup == 1


@in_loop
async def test_an_administrator_is_not_given_another_clients_backup_of_the_name(tmp_path):
    async with running(tmp_path / "h") as grid:
        tree = tmp_path / "tree"
        tree.mkdir()
        make_tree(tree, 1, files=3, big=1 << 20)
        await back_up(grid, os.fsencode(tree))
        backups = grid.manager.state.backups
        name, client = backups[1].name, backups[1].client
        backups[2] = msgspec.structs.replace(backups[1], id=2, client="c2")
        admin_link = await as_peer(grid, "boss", role="admin")
        try:
            for newest in (OpenBackup(), OpenBackup(name=name)):
                with pytest.raises(UsageError, match=f"2 clients have backups.*: {client}, c2"):
                    await admin_link.request(OPEN_BACKUP.name, newest)
            for each, number in ((client, 1), ("c2", 2)):
                opened = await admin_link.request(OPEN_BACKUP.name, OpenBackup(name=name, client=each))
                assert OPEN_BACKUP.decode(opened).backup == number
            with pytest.raises(NotFound, match="of client 'c3'"):
                await admin_link.request(OPEN_BACKUP.name, OpenBackup(client="c3"))
        finally:
            del backups[2]
            await admin_link.close()
