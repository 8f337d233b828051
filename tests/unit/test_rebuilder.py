"""While a rebuild enters the log, piece by piece, the collector deletes nothing of it."""

import asyncio
from types import SimpleNamespace

import pytest
from enginekit import Bench
from test_engine_rebuild import all_containers, chain, ident, seal

from staddle.api.types import Kind
from staddle.daemon.manager.adoption import unread_media
from staddle.daemon.manager.rebuild import Rebuilder, _check_head, _Media
from staddle.data.manifest import ManifestHead
from staddle.engine import gc, rebuild
from staddle.engine.tables import ObjectState
from staddle.errors import Corrupt


class CollectingManager:
    """Between any two records of a rebuild a pass of the collector comes by."""

    def __init__(self):
        self.bench = Bench()
        self.state = self.bench.state
        self.settings = SimpleNamespace(medium=dict.fromkeys("mno"))

    async def change(self, decide, *args):
        decided = decide(self.state, *args)
        decided, answer = decided if isinstance(decided, tuple) else (decided, None)
        self.bench.log(*decided)
        if not unread_media(self):
            self.bench.log(*gc.decide_condemn(self.state, 1))
        return answer


def test_no_container_is_condemned_between_its_import_and_that_of_its_backup(monkeypatch):
    manager = CollectingManager()
    adoption = SimpleNamespace(rebuilt=lambda: None)
    rebuilder = Rebuilder(manager, adoption, presence=None, catalog=None, domains={})
    media = _Media()
    media.found = {kind: {} for kind in Kind}

    def plan(state, **found):
        found.update(containers=all_containers(3), manifests=chain(3), seals=[seal(3, ident(b"m2"))])
        return rebuild.plan_rebuild(state, **found)

    async def answer(result):
        return result

    monkeypatch.setattr("staddle.daemon.manager.rebuild.plan_rebuild", plan)
    monkeypatch.setattr(rebuilder, "_read_media", lambda: answer(media))
    monkeypatch.setattr(rebuilder, "_ingest_all", lambda *_: answer(None))
    found = asyncio.run(rebuilder._run())
    assert (found.backups, found.containers, found.missing) == (1, 3, [])
    assert {item.state for item in manager.state.objects.values()} == {ObjectState.LIVE}
    assert manager.state.unread == []


@pytest.mark.parametrize(("stream", "ordinal"), [(-1, 0), (64, 0), (0, -1), (0, 2**31)])
def test_a_manifest_of_a_place_that_no_job_had_is_not_believed(stream, ordinal):
    head = ManifestHead(
        grid=bytes(16),
        domain=bytes(16),
        client="c",
        name="n",
        job=1,
        backup=1,
        stream=stream,
        epoch=1,
        ordinal=ordinal,
        first=0,
    )
    with pytest.raises(Corrupt, match="can't be"):
        _check_head(head)
