"""A process that feeds a catalog: `catalog_work.py DIRECTORY`. It marks each batch that was applied."""

import contextlib
import os
import sys

from staddle.catalog.duck import DuckCatalog

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "unit"))

from test_catalog_replay import RandomLog, contents

SEED = 7
BATCH = 12
RECORDS = 90


def records():
    return RandomLog(SEED).grow(RECORDS).records


def opened(path):
    return DuckCatalog(path, decode_manifest=None, threads=1)


def feed(path, mark, *, restart_every=4):
    """Apply all in batches; every few batches the file is closed (a checkpoint) and opened again."""
    log, catalog = records(), opened(path)
    for number, at in enumerate(range(0, len(log), BATCH), 1):
        catalog.apply(log[at : at + BATCH])
        mark(catalog.applied_lsn())
        if number % restart_every == 0:
            catalog.close()
            catalog = opened(path)
    catalog.close()


def reference(path):
    """LSN -> everything in the catalog."""
    log, catalog = records(), opened(path)
    found = {0: contents(catalog)}
    for at in range(0, len(log), BATCH):
        catalog.apply(log[at : at + BATCH])
        found[catalog.applied_lsn()] = contents(catalog)
    catalog.close()
    return found


def say(lsn):
    """The tracer sees that this file was asked for."""
    with contextlib.suppress(FileNotFoundError), open(f"/mark/{lsn}", "rb"):
        pass


if __name__ == "__main__":
    feed(os.path.join(sys.argv[1], "catalog.duckdb"), say)
