"""The verdict on a run. Written apart from the engine: its own reading of the log and of the media."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

from staddle.engine.found import FoundContainer, FoundManifest, FoundSeal
from staddle.engine.messages import CopyOf
from staddle.engine.rebuild import facts, plan_rebuild
from staddle.engine.state import GridState
from staddle.engine.tables import SEALED, Backup, BackupState, ObjectState
from staddle.testing.sim.grid import Grid
from staddle.testing.sim.media import Body
from staddle.testing.sim.world import Violation


def check(grid: Grid) -> GridState:
    """All rules, on the log that counts and on the media as they are now."""
    _check_log(grid)
    state = GridState()
    for record in grid.log.read():
        state.apply(record)
    if GridState.load(state.dump()).dump() != state.dump():
        raise Violation("a snapshot is not equal to the state that it was made of")
    _check_promises(grid, state)
    _check_copies(grid, state)
    for backup in state.backups.values():
        if backup.state is not BackupState.PRUNED:
            _check_backup(grid, state, backup)
    _check_rebuild(grid, state)
    return state


# --- the log, record by record ------------------------------------------------------------------


class _Oracle:
    """A second, independent reading of the log."""

    def __init__(self, grid: Grid) -> None:
        self.copies = grid.copies
        self.min_copies = grid.min_copies
        self.up = dict.fromkeys(grid.media, True)
        self.containers: dict[bytes, set[tuple[str, str]]] = {}  # id -> good copies: medium, name
        self.going: set[bytes] = set()
        self.epochs: dict[tuple[int, int], int] = {}
        self.nexts: dict[tuple[int, int], int] = {}
        self.bases: dict[int, int] = {}

    def read(self, op: str, args: dict[str, Any]) -> None:
        act = getattr(self, "_" + op, None)
        if act is not None:
            act(args)

    def _medium_changed(self, args: dict[str, Any]) -> None:
        self.up[args["name"]] = args["state"] == "up"

    def _job_begun(self, args: dict[str, Any]) -> None:
        self.bases[args["job"]] = args["base_backup"]

    def _job_finished(self, args: dict[str, Any]) -> None:
        del self.bases[args["job"]]

    def _stream_assigned(self, args: dict[str, Any]) -> None:
        key = (args["job"], args["stream"])
        if args["epoch"] <= self.epochs.get(key, 0):
            raise Violation(f"the epoch of {key} did not rise")
        self.epochs[key] = args["epoch"]

    def _segment_committed(self, args: dict[str, Any]) -> None:
        key = (args["job"], args["stream"])
        if args["first"] != self.nexts.get(key, 0):
            raise Violation(f"segment of {key} begins at {args['first']}, not {self.nexts.get(key, 0)}")
        self.nexts[key] = args["next"]
        new = {bytes(item["id"]): {(c[0], c[1]) for c in item["copies"]} for item in args["containers"]}
        up = {name for name, works in self.up.items() if works}
        for item, copies in new.items():
            if len(_media(copies) & up) < self.min_copies:
                raise Violation(f"container {item.hex()} was committed with copies {copies} only")
        self.containers.update(new)
        need = max(self.min_copies, min(self.copies, len(up)))
        refs = args["refs"]
        for at in range(0, len(refs), 16):
            item = refs[at : at + 16]
            if item in new:
                continue
            if item not in self.containers or item in self.going:
                raise Violation(f"G2: a manifest of {key} refers to {item.hex()}, which is not there")
            if len(_media(self.containers[item]) & up) < need:
                raise Violation(f"G1: a manifest of {key} refers to {item.hex()}, which lacks copies")

    def _objects_deleting(self, args: dict[str, Any]) -> None:
        self.going.update(args["objects"])

    def _objects_dropped(self, args: dict[str, Any]) -> None:
        for item in args["objects"]:
            self.containers.pop(item, None)

    def _copy_added(self, args: dict[str, Any]) -> None:
        if args["object"] in self.containers:
            self.containers[args["object"]].add((args["copy"][0], args["copy"][1]))

    def _copy_dropped(self, args: dict[str, Any]) -> None:
        self.containers.get(args["object"], set()).discard((args["copy"][0], args["copy"][1]))

    def _backups_pruned(self, args: dict[str, Any]) -> None:
        if held := set(args["backups"]) & set(self.bases.values()):
            raise Violation(f"backups {held} were pruned though a running job builds on them")


def _media(copies: Iterable[tuple[str, str]]) -> set[str]:
    return {medium for medium, _ in copies}


def _check_log(grid: Grid) -> None:
    oracle = _Oracle(grid)
    for record in grid.log.read():
        oracle.read(record.op, record.args)


# --- the end ------------------------------------------------------------------------------------


def _check_promises(grid: Grid, state: GridState) -> None:
    """Nothing acknowledged is lost."""
    for (job, stream), upto in grid.acked.items():
        if job not in state.jobs or state.jobs[job].streams[stream].next_seq < upto:
            raise Violation(f"job {job} stream {stream}: acknowledged up to {upto}, but not committed")
    for number, promised in grid.promised.items():
        known = state.backups.get(number)
        if known is None or known.state not in {*SEALED, BackupState.PRUNED}:
            raise Violation(f"backup {number} was said to be {promised}, but is {known and known.state}")


def _check_copies(grid: Grid, state: GridState) -> None:
    """Every copy that the log claims is there (C1), unless its whole medium is lost.

    So are those that are called bad, rotten or not: they go only when they are no longer in the log.
    """
    for item in state.objects.values():
        if item.state is ObjectState.LIVE and not item.placements():
            raise Violation(f"{item.kind} {item.id.hex()}: its last copy was removed")
        for copy in item.placements():
            medium = grid.media[copy.medium]
            if medium.lost or item.state is ObjectState.DELETING:
                continue
            if copy.name not in medium.objects or medium.objects[copy.name].id != item.id:
                raise Violation(f"{item.kind} {item.id.hex()}: no copy {copy.name} on {copy.medium}")


def _check_backup(grid: Grid, state: GridState, backup: Backup, gone: Container[bytes] = ()) -> None:
    """The chain of each stream equals its source, and every reference can be followed.

    Args: gone: objects that are on no medium any more; an unfinished backup may name them, and have gaps.
    """
    expected = grid.expected.get(backup.id)
    for row in backup.segments:
        for item in (row.manifest, *row.ref_ids()):
            known = state.objects.get(item)
            if item not in gone and (known is None or known.state is ObjectState.DELETING):
                raise Violation(f"backup {backup.id} refers to {item.hex()}, which is deleted")
    for stream, source in enumerate(expected or ()):  # none: its client never heard of it
        _check_stream(grid, backup, stream, source, gone)


def _check_stream(
    grid: Grid, backup: Backup, stream: int, source: Sequence[int], gone: Container[bytes]
) -> None:
    what, following, previous = f"backup {backup.id} stream {stream}", 0, b""
    for row in (row for row in backup.segments if row.stream == stream):
        body = grid.bodies[row.manifest]
        joined = row.first == following and body.head.previous_manifest == previous
        if not joined and (not gone or row.first < following):
            raise Violation(f"{what}: a gap or an overlap at {row.first}")
        following, previous = row.next, row.manifest
        if row.manifest in gone:
            continue
        refs = set(row.ref_ids())
        for content, container in body.rows:
            if container not in refs or (content, container) not in grid.bodies[container].rows:
                raise Violation(f"backup {backup.id}: content {content} is not in {container.hex()}")
        got = [content for content, _ in body.rows]
        if got != source[row.first : row.next]:
            raise Violation(f"{what}: {got} instead of {source[row.first : row.next]}")
    if backup.state in SEALED and following != len(source):
        raise Violation(f"{what}: it ends at {following}, not at {len(source)}")


def _check_rebuild(grid: Grid, state: GridState) -> None:
    """C3: what comes back from the media alone."""
    fresh = GridState()
    fresh.grid = state.grid
    for op in grid.config:
        fresh.apply_op(op)
    found = _found(grid)
    lost = any(medium.lost for medium in grid.media.values())
    lost = lost or any(item.id not in found and item.id in _wanted(state) for item in state.objects.values())
    pruned = [number for body, _ in found.values() for number in body.pruned]
    rebuilt = plan_rebuild(
        fresh,
        containers=[_container(body, copies) for body, copies in found.values() if body.kind == "container"],
        manifests=[_manifest(body, copies) for body, copies in found.values() if body.kind == "manifest"],
        seals=[_seal(body, copies) for body, copies in found.values() if body.kind == "seal"],
        pruned=pruned,
    )
    for op in rebuilt.ops:
        fresh.apply_op(op)
    for number, backup in fresh.backups.items():
        if state.backups[number].state is BackupState.PRUNED:
            raise Violation(f"pruned backup {number} came back in a rebuild")
        if backup.state in SEALED:
            _check_backup(grid, fresh, backup)
        elif not backup.seal:
            _check_backup(grid, fresh, backup, _named(backup) - found.keys() if lost else ())
        if state.backups[number].state is BackupState.INCOMPLETE:
            # A seal that was stored as the last medium went offline: never logged, and whole again by now.
            backup.state = BackupState.INCOMPLETE
    if lost:
        return
    if rebuilt.findings:
        raise Violation(f"a rebuild from whole media finds: {rebuilt.findings}")
    _same(facts(state), facts(fresh), {(m.name, name) for m in grid.media.values() for name in m.rotten})


def _wanted(state: GridState) -> set[bytes]:
    """Everything that a backup which is not pruned needs."""
    kept = [backup for backup in state.backups.values() if backup.state is not BackupState.PRUNED]
    return {backup.seal for backup in kept}.union(*map(_named, kept))


def _named(backup: Backup) -> set[bytes]:
    return {item for row in backup.segments for item in (row.manifest, *row.ref_ids())}


def _same(original: dict[str, Any], again: dict[str, Any], rotten: set[tuple[str, str]]) -> None:
    for what, rows in original.items():
        missing = set(rows) - set(again[what])
        if what == "copies":  # the log may not know yet that some of its copies have rotted
            missing = {row for row in missing if row[1:] not in rotten}
        # A copy that landed though its put seemed to fail is a copy, too: the media know more here.
        surplus = set() if what == "copies" else set(again[what]) - set(rows)
        if missing or surplus:
            raise Violation(f"rebuild: {what} differ: missing {missing}, surplus {surplus}")


def _found(grid: Grid) -> dict[bytes, tuple[Body, list[CopyOf]]]:
    found: dict[bytes, tuple[Body, list[CopyOf]]] = {}
    for medium in grid.media.values():
        for name, body in medium.objects.items():
            if name in medium.rotten:
                continue
            found.setdefault(body.id, (body, []))[1].append(CopyOf(medium.name, name))
    return found


def _common(body: Body, copies: Iterable[CopyOf]) -> dict[str, Any]:
    return {
        "id": body.id,
        "size_bytes": 100 + len(body.rows),
        "digest": body.digest,
        "domain": "all",
        "copies": list(copies),
    }


def _container(body: Body, copies: list[CopyOf]) -> FoundContainer:
    return FoundContainer(**_common(body, copies), raw_bytes=len(body.rows), chunks=len(body.rows))


def _manifest(body: Body, copies: list[CopyOf]) -> FoundManifest:
    fields = {name: getattr(body.head, name) for name in FoundManifest.__struct_fields__}
    return FoundManifest(**{**fields, **_common(body, copies)})


def _seal(body: Body, copies: list[CopyOf]) -> FoundSeal:
    common = _common(body, copies)
    rest = [name for name in FoundSeal.__struct_fields__ if name not in common]
    return FoundSeal(**common, **{name: getattr(body.seal, name) for name in rest})
