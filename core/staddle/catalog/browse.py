"""What `ls`, `find`, `restore` and `verify` ask of the catalog. Paths go in and come out as exact bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import msgspec

from staddle.catalog.globs import glob_regex
from staddle.errors import NotFound

LIST_ROWS = 100_000
_DIRECTORY = 2
_NAMED_STREAM = 11
_GLOB = frozenset("*?[")

_COLUMNS = (
    "f.backup, coalesce(d.path_raw, encode(d.path)), coalesce(f.name_raw, encode(f.name)), f.type, f.mode, "
    "f.uid, f.gid, f.size_bytes, f.mtime_ns, f.flags, f.link, m.manifest, f.row_no"
)
_JOINS = "JOIN dirs d USING (dir_no) JOIN manifests m ON m.manifest_no = f.manifest_no"
# Of a file in several parts only the row with the final metadata (PART and LAST) stands for it.
_WHOLE = f"f.flags & 3 <> 1 AND f.type <> {_NAMED_STREAM}"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a backup.

    Attributes:
        path: exact bytes, absolute.
        type: as in manifests: 1 file, 2 directory, 3 symlink, … (docs/format.md).
        flags: as in manifests.
        link: printable target, None if there is none.
        manifest: id of the manifest with its row `row`; empty for a directory above the roots, which is known
            by name only.
    """

    backup: int
    path: bytes
    type: int
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size_bytes: int = 0
    mtime_ns: int = 0
    flags: int = 0
    link: str | None = None
    manifest: bytes = b""
    row: int = 0


class SegmentOf(msgspec.Struct, frozen=True):
    """A committed segment: `ingested` tells whether its files are in the catalog."""

    stream: int
    ordinal: int
    manifest: bytes
    ingested: bool


class FilePage(msgspec.Struct, frozen=True):
    """A page of paths; `after` is where the next one begins, empty at the end."""

    paths: list[bytes]
    after: bytes


class Browser(ABC):
    """Questions about files. The database is the subclass's."""

    @abstractmethod
    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a statement."""

    def list_directory(
        self, backup: int, path: bytes, after: bytes = b"", limit: int = LIST_ROWS
    ) -> list[Entry]:
        """Entries directly in a directory, ascending by name.

        Args:
            backup: its number.
            path: absolute; `/` is the top.
            after: last name of the page before.
            limit: most entries of a page.

        Raises:
            NotFound: no such backup, or no such directory in it.
        """
        place, exact = _exact("d.path", path)
        rows = self._rows(
            f"SELECT {_COLUMNS} FROM files f {_JOINS} WHERE f.backup = ? AND d.backup = ? AND {place} "  # noqa: S608 - values are parameters
            f"AND f.dir_no BETWEEN (SELECT min(d.dir_no) FROM dirs d WHERE d.backup = ? AND {place}) "
            f"AND (SELECT max(d.dir_no) FROM dirs d WHERE d.backup = ? AND {place}) "
            f"AND {_WHOLE} AND coalesce(f.name_raw, encode(f.name)) > ? "
            "ORDER BY coalesce(f.name_raw, encode(f.name)) LIMIT ?",
            [backup, backup, exact, backup, exact, backup, exact, after, limit],
        )
        entries = [_entry(row) for row in rows]
        if entries or after:
            return entries
        above = self._above_roots(backup, path)
        if not above and not self._is_directory(backup, path):
            raise NotFound(
                f"backup {backup} has no directory {path.decode(errors='replace')}",
                hint=f"staddle ls {backup} shows its top",
            )
        return above[:limit]

    def find(self, pattern: str, backups: Sequence[int] | None = None, limit: int = LIST_ROWS) -> list[Entry]:
        """Entries whose name, or whole path if the pattern has a `/`, contains or matches the pattern.

        Args:
            pattern: a substring; with `*`, `?` or `[` a glob over the whole name or path.
            backups: only in these.
            limit: most entries.
        """
        subject = "join_path(d.path, f.name)" if "/" in pattern else "f.name"
        is_glob = bool(_GLOB & set(pattern))
        test = f"regexp_full_match({subject}, ?)" if is_glob else f"contains({subject}, ?)"
        of_backup, parameters = "", []
        if backups is not None:
            of_backup, parameters = "list_contains(?, f.backup) AND ", [list(backups)]
        rows = self._rows(
            f"SELECT {_COLUMNS} FROM files f {_JOINS} WHERE {of_backup}{_WHOLE} AND {test} LIMIT ?",  # noqa: S608 - values are parameters
            [*parameters, glob_regex(pattern) if is_glob else pattern, limit],
        )
        return sorted(map(_entry, rows), key=lambda entry: (entry.backup, entry.path))

    def files_hit(self, backup: int, containers: Sequence[bytes], limit: int = LIST_ROWS) -> list[bytes]:
        """Paths of files that have chunks in any of these containers, ascending: what their loss costs.

        Hard links have no chunks of their own: those to a file that is hit are hit with it.
        """
        rows = self._rows(
            "WITH hit AS (SELECT container_no FROM container_ids WHERE list_contains(?, container)), "
            "parts AS (SELECT DISTINCT m.manifest_no FROM refs r "
            "  JOIN segments s USING (backup, stream, ordinal) JOIN manifests m USING (manifest) "
            "  WHERE r.backup = ? AND r.container_no IN (FROM hit)), "
            "runs AS (SELECT dir_no, name, name_raw, unnest(runs) AS run FROM files "
            "  WHERE backup = ? AND manifest_no IN (FROM parts)) "
            "SELECT DISTINCT join_path_raw(d.path, d.path_raw, r.name, r.name_raw) AS path "
            "FROM runs r JOIN dirs d USING (dir_no) WHERE r.run.c IN (FROM hit) ORDER BY path LIMIT ?",
            [[each.hex() for each in containers], backup, backup, limit],
        )
        hit = [row[0] for row in rows]
        linked = self._rows(
            "SELECT DISTINCT join_path_raw(d.path, d.path_raw, f.name, f.name_raw) AS path "
            "FROM files f JOIN dirs d USING (dir_no) "
            "WHERE f.backup = ? AND f.type = 4 AND list_contains(?, f.link) ORDER BY path LIMIT ?",
            [backup, [path.decode(errors="replace") for path in hit], limit],
        )
        return sorted({*hit, *(row[0] for row in linked)})[:limit]

    def files_lost(self, backup: int, objects: Sequence[bytes], after: bytes, limit: int) -> FilePage:
        """Paths of files that need any of these containers or manifests, ascending, after a path.

        Hard links come right behind the file that they are links to; one whose own manifest is among the
        objects may come twice.
        """
        wanted = [each.hex() for each in objects]
        rows = self._rows(
            "WITH hit AS (SELECT container_no FROM container_ids WHERE list_contains(?, container)), "
            "whole AS (SELECT manifest_no FROM manifests WHERE backup = ? AND list_contains(?, manifest)), "
            "parts AS (SELECT DISTINCT m.manifest_no FROM refs r "
            "  JOIN segments s USING (backup, stream, ordinal) JOIN manifests m USING (manifest) "
            "  WHERE r.backup = ? AND r.container_no IN (FROM hit)), "
            "runs AS (SELECT dir_no, name, name_raw, unnest(runs) AS run FROM files "
            "  WHERE backup = ? AND manifest_no IN (FROM parts)), "
            "named AS (SELECT dir_no, name, name_raw FROM runs WHERE run.c IN (FROM hit) UNION "
            "  SELECT dir_no, name, name_raw FROM files "
            "  WHERE backup = ? AND type <> 2 AND manifest_no IN (FROM whole)), "
            "paths AS (SELECT DISTINCT join_path_raw(d.path, d.path_raw, n.name, n.name_raw) AS path "
            "  FROM named n JOIN dirs d USING (dir_no)) "
            "SELECT path FROM paths WHERE path > ? ORDER BY path LIMIT ?",
            [wanted, backup, wanted, backup, backup, backup, after, limit],
        )
        hit = [row[0] for row in rows]
        linked = self._rows(
            "SELECT f.link, join_path_raw(d.path, d.path_raw, f.name, f.name_raw) AS path "
            "FROM files f JOIN dirs d USING (dir_no) "
            "WHERE f.backup = ? AND f.type = 4 AND list_contains(?, f.link) ORDER BY path",
            [backup, [path.decode(errors="replace") for path in hit]],
        )
        links: dict[str, list[bytes]] = {}
        for target, path in linked:
            links.setdefault(target, []).append(path)
        paths: list[bytes] = []
        for path in hit:
            paths += [path, *links.pop(path.decode(errors="replace"), [])]
        return FilePage(paths, hit[-1] if len(hit) == limit else b"")

    def manifests_of(self, backup: int) -> list[SegmentOf]:
        """The committed segments of a backup, by stream and ordinal. Raises NotFound."""
        self._check_backup(backup)
        rows = self._rows(
            "SELECT stream, ordinal, manifest, m.manifest IS NOT NULL FROM segments s "
            "LEFT JOIN manifests m USING (manifest) WHERE s.backup = ? ORDER BY stream, ordinal",
            [backup],
        )
        return [SegmentOf(row[0], row[1], bytes.fromhex(row[2]), row[3]) for row in rows]

    def _above_roots(self, backup: int, path: bytes) -> list[Entry]:
        """The next part of each root below `path`: directories that were walked through, not backed up."""
        roots = self._check_backup(backup)
        prefix = path if path.endswith(b"/") else path + b"/"
        parts = {root[len(prefix) :].split(b"/")[0] for root in roots if root.startswith(prefix)}
        names = sorted(part for part in parts if part)
        return [Entry(backup=backup, path=prefix + name, type=_DIRECTORY, mode=0o755) for name in names]

    def _is_directory(self, backup: int, path: bytes) -> bool:
        parent, _, name = path.rpartition(b"/")
        in_dir, exact_dir = _exact("d.path", parent or b"/")
        is_name, exact_name = _exact("f.name", name)
        rows = self._rows(
            f"SELECT 1 FROM files f JOIN dirs d USING (dir_no) WHERE f.backup = ? AND {in_dir} "  # noqa: S608 - values are parameters
            f"AND {is_name} AND f.type = {_DIRECTORY} LIMIT 1",
            [backup, exact_dir, exact_name],
        )
        return bool(rows)

    def _check_backup(self, backup: int) -> list[bytes]:
        """The roots of a backup. Raises NotFound."""
        rows = self._rows("SELECT roots_raw FROM backups WHERE backup = ?", [backup])
        if not rows:
            raise NotFound(f"there is no backup {backup}", hint="`staddle ls` shows them")
        return list(rows[0][0])


def _exact(column: str, value: bytes) -> tuple[str, str | bytes]:
    """A condition that a path column has exactly these bytes, and its parameter."""
    try:
        return f"({column} = ? AND {column}_raw IS NULL)", value.decode()
    except UnicodeDecodeError:
        return f"{column}_raw = ?", value


def _entry(row: tuple[Any, ...]) -> Entry:
    backup, directory, name, kind, mode, uid, gid, size, mtime_ns, flags, link, manifest, row_no = row
    path = directory if not name else (directory if directory.endswith(b"/") else directory + b"/") + name
    return Entry(
        backup=backup,
        path=path,
        type=kind,
        mode=mode,
        uid=uid,
        gid=gid,
        size_bytes=size,
        mtime_ns=mtime_ns,
        flags=flags,
        link=link,
        manifest=bytes.fromhex(manifest),
        row=row_no,
    )
