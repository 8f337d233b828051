"""A medium that lies gives nobody wrong bytes, fills no memory, and ends no loop."""

import asyncio
import itertools
import os
import random
import tracemalloc

import msgspec
import pytest
from agentkit import back_up, check, make_tree, restore, running

from staddle.api.media import Deadline
from staddle.api.types import Kind, Label, ObjectInfo, object_name
from staddle.config_model import MediumSettings
from staddle.errors import Corrupt, MediumFailed, StaddleError
from staddle.wire.ops.admin import VerifyObject
from staddle.wire.ops.data import CHECK_OBJECT, GET_OBJECT, SCAN_MEDIUM, CheckObject, GetObject, ScanMedium
from staddle.wrap import wrap

KINDS = {"container": "c0", "manifest": "f0", "seal": "5e"}
MODES = ("other", "flipped", "short", "empty", "long", "endless", "blank", "another object's")


class LyingVolume:
    """Reads of objects are as the mode says; everything else is true."""

    def __init__(self, inner, lies):
        self.inner, self.lies = inner, lies

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def get(self, name, offset, length, deadline):
        true = self.inner.get(name, offset, length, deadline)
        rng, mode, seen = self.lies["rng"], self.lies["mode"], self.lies.setdefault("seen", {})
        seen[name[:37]] = true  # without the placement: all copies are the same bytes
        other = next((data for key, data in seen.items() if key != name[:37]), b"")
        flipped = bytearray(true)
        if flipped:
            flipped[rng.randrange(len(true))] ^= 1 << rng.randrange(8)
        return {
            "true": true,
            "other": rng.randbytes(length),
            "flipped": bytes(flipped),
            "short": true[: rng.randrange(max(length, 1))],
            "empty": b"",
            "long": true + rng.randbytes(1 + rng.randrange(1000)),
            "endless": true + bytes(32 << 20) if mode == "endless" else b"",
            "blank": bytes(length),
            "another object's": other.ljust(length, b"\0")[:length],
        }[mode]


class Lying:
    """A medium whose volumes lie."""

    def __init__(self, inner, lies):
        self.inner, self.lies = inner, lies

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def open(self, *args):
        return LyingVolume(self.inner.open(*args), self.lies)


def lying(lies, media):
    """Lies below everything that the core puts round a driver."""

    def spoil(name, medium):
        if name in media:
            medium.inner = Lying(medium.inner, lies)
        return medium

    return spoil


@pytest.mark.parametrize("mode", MODES)
def test_a_restore_gets_the_right_bytes_from_the_medium_that_tells_the_truth(tmp_path, seed, mode):
    async def main():
        lies = {"mode": "true", "rng": random.Random(seed)}
        want = make_tree(tmp_path / "src", seed, files=3, big=1 << 20)
        async with running(tmp_path / "home", spoil=lying(lies, {"m1"})) as grid:
            opened, *_ = await back_up(grid, os.fsencode(tmp_path / "src"))
            lies["mode"] = mode
            check(await restore(grid, opened.created.backup), want)

    asyncio.run(main())


@pytest.mark.parametrize("mode", MODES)
def test_where_all_media_lie_no_byte_is_given_and_every_check_says_so(tmp_path, seed, mode):
    async def main():
        lies = {"mode": "true", "rng": random.Random(seed)}
        make_tree(tmp_path / "src", seed, files=3, big=1 << 20)
        async with running(tmp_path / "home", spoil=lying(lies, {"m1", "m2"})) as grid:
            opened, *_ = await back_up(grid, os.fsencode(tmp_path / "src"))
            rows = [
                VerifyObject(
                    KINDS[item.kind],
                    item.id,
                    copy.medium,
                    copy.name,
                    item.size_bytes,
                    item.digest,
                    "default",
                    [1],
                )
                for item in grid.manager.state.objects.values()
                for copy in item.copies
            ]
            link = await grid.dial("a1", [grid.agent_url], grid.hello("admin", "admin"))
            managers = grid.presence.sessions["a1"].data_link()
            lies["mode"] = mode
            with pytest.raises(StaddleError):
                await restore(grid, opened.created.backup)
            tracemalloc.start()
            for row in rows:
                reply = await link.request(CHECK_OBJECT.name, CheckObject(object=row, read_data=True))
                assert CHECK_OBJECT.decode(reply).code == "CORRUPT", row
                if row.kind != "c0":
                    request = GetObject(medium=row.medium, name=row.name, domain=row.domain)
                    with pytest.raises(Corrupt):
                        await managers.request(GET_OBJECT.name, request)
            for kind, medium in itertools.product(("c0", "f0", "5e"), ("m1", "m2")):
                reply = await managers.request(SCAN_MEDIUM.name, ScanMedium(medium=medium, kind=kind))
                found = SCAN_MEDIUM.decode(reply).objects
                assert found
                # A container's chunks are not read by a scan, and a flip may have hit the wrong place.
                assert all(each.problem for each in found) or (kind, mode) == ("c0", "flipped")
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 200 << 20, f"{peak >> 20} MiB"
            await link.close()

    asyncio.run(main())


# --- what else a driver may say ---------------------------------------------------------------------


LABEL = Label(grid=b"g" * 16, medium="m", volume=b"v" * 16, created_ns=1)


class Liar:
    """A volume that answers as it is told."""

    label = LABEL

    def __init__(self, **answers):
        self.answers = answers

    def __getattr__(self, name):
        return lambda *_, **__: self.answers[name]

    def list(self, after, deadline, prefix=""):
        return iter(self.answers["list"]())


class LiarMedium:
    def __init__(self, **answers):
        self.answers = answers

    def open(self, *_):
        return Liar(**self.answers)

    def read_label(self, _):
        return self.answers["label"]

    def close(self):
        pass


def wrapped(**answers):
    medium = wrap(LiarMedium(**answers), MediumSettings(name="m", plugin="x"), sleep=lambda _: None)
    return medium, medium.open(LABEL, "write", 1, Deadline(5.0))


NAME = object_name(Kind.SEAL, bytes(16), bytes(8))


@pytest.mark.parametrize("size", [0, 9, 11, 1 << 20])
def test_a_get_of_another_length_is_damage(size):
    medium, volume = wrapped(get=bytes(size))
    with pytest.raises(Corrupt, match=f"{size} bytes instead of 10"):
        volume.get(NAME, 0, 10, Deadline(5.0))
    medium.close()


@pytest.mark.parametrize("info", [ObjectInfo("5e/00/ff", 5), ObjectInfo(NAME, -1)])
def test_a_stat_of_something_else_is_a_failing_medium(info):
    medium, volume = wrapped(stat=info)
    with pytest.raises(MediumFailed):
        volume.stat(NAME, Deadline(5.0))
    medium.close()


@pytest.mark.parametrize(
    "listing",
    [
        lambda: itertools.repeat(ObjectInfo(NAME, 5)),
        lambda: (ObjectInfo(f"5e/{number % 256:02x}", 5) for number in itertools.count()),
        lambda: [ObjectInfo("c0/00", 5)],
        lambda: [ObjectInfo("5e/" + "0" * 100_000, 5)],
    ],
)
def test_a_listing_without_order_ends_with_an_error(listing):
    medium, volume = wrapped(list=listing)
    with pytest.raises(MediumFailed):
        list(volume.list("", Deadline(5.0), "5e/"))
    medium.close()


def test_an_endless_label_is_none():
    medium, _ = wrapped(label=bytes(1 << 20))
    with pytest.raises(MediumFailed):
        medium.read_label(Deadline(5.0))
    medium.close()


def test_an_object_of_an_absurd_size_takes_no_memory(tmp_path):
    async def main():
        async with running(tmp_path / "home") as grid:
            link = await grid.dial("a1", [grid.agent_url], grid.hello("admin", "admin"))
            row = VerifyObject("c0", bytes(16), "m1", object_name(Kind.CONTAINER, bytes(16), bytes(8)),
                               4096, bytes(32), "default", [1])  # fmt: skip
            path = tmp_path / "home" / "media" / "m1" / row.name
            path.parent.mkdir(parents=True)
            path.touch()
            os.truncate(path, 1 << 40)
            for size in (4096, 1 << 40, (1 << 62) + 1):
                request = CheckObject(object=msgspec.structs.replace(row, size_bytes=size), read_data=True)
                problems = CHECK_OBJECT.decode(await link.request(CHECK_OBJECT.name, request)).problems
                assert len(problems) == 1
            managers = grid.presence.sessions["a1"].data_link()
            reply = await managers.request(SCAN_MEDIUM.name, ScanMedium(medium="m1", kind="c0"))
            [found] = SCAN_MEDIUM.decode(reply).objects
            assert "too many" in found.problem
            await link.close()

    asyncio.run(main())
