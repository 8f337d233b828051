"""Trees to be walked, and what a walk finds of them."""

import os

from staddle.client.exclude import Excludes
from staddle.client.scan import Scan, scan
from staddle.client.walkorder import WalkOrder

NOTHING = Excludes([])


def found(roots, excludes=NOTHING):
    warnings = []
    paths = [each.path for each in scan(roots, excludes, lambda path, why: warnings.append((path, why)))]
    return paths, warnings


def names_of(root, rules, excludes=NOTHING, asked=()):
    warnings = []
    paths = WalkOrder(os.fsencode(each) for each in (root, *(root / below for below in asked)))
    walk = Scan(paths, excludes, lambda path, why: warnings.append((path, why)), rules)
    names = [os.path.relpath(each.path, os.fsencode(root)).decode() for each in walk]
    assert not warnings
    assert len(names) == len(set(names)), "some entries came twice"
    assert names == sorted(names, key=lambda name: "" if name == "." else name.replace("/", "\0"))
    return {*names} - {"."}


def tree(root, *paths, data=b""):
    for path in paths:
        if path.endswith("/"):
            (root / path).mkdir(parents=True)
        else:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)


def moved(monkeypatch, *paths):
    """Mount points by way of st_dev: what the system tells of these is changed, as if they lay elsewhere."""
    strange = {os.lstat(path).st_ino for path in paths}
    real_stat, real_fstat = os.stat, os.fstat

    class Moved:
        def __init__(self, status):
            self._status = status
            self.st_dev = status.st_dev + 1

        def __getattr__(self, name):
            return getattr(self._status, name)

    def told(status):
        return Moved(status) if status.st_ino in strange else status

    monkeypatch.setattr(os, "stat", lambda *args, **more: told(real_stat(*args, **more)))
    monkeypatch.setattr(os, "fstat", lambda fd: told(real_fstat(fd)))
