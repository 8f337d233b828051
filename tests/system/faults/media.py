"""Media that fail, are full, are gone, are others, or damage what they hold."""

import contextlib
import os
import shutil
import subprocess

from .base import Fault


class Ruled(Fault):
    """Faults by the medium's fault file."""

    rules = ()

    def begin(self):
        self.grid.fault(self.part, *self.rules)

    def heal(self):
        self.grid.fault(self.part)


class MediumIoErrors(Ruled):
    rules = ({"error": "io"},)


class MediumWriteErrors(Ruled):
    rules = ({"op": "put", "error": "io"},)


class MediumFlaky(Ruled):
    """Every third call or so fails."""

    def begin(self):
        self.grid.fault(self.part, {"error": "io", "probability": 0.3, "seed": self.rng.getrandbits(31)})


class MediumFull(Ruled):
    rules = ({"op": "put", "error": "full"},)


class MediumInDoubt(Ruled):
    """Puts are done, and nobody is told."""

    rules = ({"op": "put", "error": "in_doubt"},)


class MediumHangs(Ruled):
    rules = ({"op": "put", "error": "hang"},)


class MediumSlow(Ruled):
    """Every call takes longer than its deadline."""

    def begin(self):
        self.grid.fault(self.part, {"op": "put", "delay_s": self.scene.deadline_s + 1.5})


class MediumReadsCorrupt(Ruled):
    """Reading says that it is damaged, every other time."""

    def begin(self):
        rule = {"op": "get", "error": "io", "probability": 0.5, "seed": self.rng.getrandbits(31)}
        self.grid.fault(self.part, rule)


class DirFsyncFails(Ruled):
    """The directory's fsync fails after the object has got its name."""

    rules = ({"op": "put", "error": "fsync"},)


# --- where it lies ------------------------------------------------------------------------------


class OfDirectory(Fault):
    """What happens to a medium that is a plain directory."""

    @classmethod
    def possible(cls, scene, part):
        return scene.ground is None or part not in scene.ground.disks


class MediumGone(OfDirectory):
    """Its directory has another name."""

    def begin(self):
        self.grid.take_away(self.part)

    def heal(self):
        with contextlib.suppress(KeyError):
            self.grid.bring_back(self.part)


class MediumReplaced(OfDirectory):
    """Another volume of the same grid is at its path: its label is wrong, all else looks fine."""

    path = ""

    def begin(self):
        path = self.grid.medium_path(self.part)
        other = next(name for name in self.scene.media if name != self.part)
        label = os.path.join(self.grid.medium_path(other), "staddle-volume.txt")
        with open(label, "rb") as file:  # first of all: another fault may have taken it away
            text = file.read()
        os.rename(path, path + ".gone")
        self.path = path
        os.makedirs(os.path.join(path, "tmp"))
        with open(os.path.join(path, "staddle-volume.txt"), "wb") as file:
            file.write(text)

    def heal(self):
        if not self.path:
            return
        found = [name for top, _, names in os.walk(self.path) for name in names]
        assert found == ["staddle-volume.txt"], f"a volume of another label was written to: {found}"
        shutil.rmtree(self.path)
        os.rename(self.path + ".gone", self.path)


class MediumReadOnly(OfDirectory):
    """Nothing can be written below its root (chattr +i; an ordinary user: no right to write)."""

    parts = ()

    def begin(self):
        path = self.grid.medium_path(self.part)
        parts = [path, *(os.path.join(path, name) for name in ("tmp", "c", "m"))]
        self.parts = [path for path in parts if os.path.isdir(path)]
        if os.geteuid() == 0:
            subprocess.run(["chattr", "+i", *self.parts], check=True, timeout=30)
        else:
            for path in self.parts:
                os.chmod(path, 0o500)

    def heal(self):
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-i", *self.parts], check=False, timeout=30)
        else:
            for path in self.parts:
                os.chmod(path, 0o700)


class OfDisk(Fault):
    """What happens to a medium that is a file system of its own."""

    weight = 4
    begun = False

    @classmethod
    def possible(cls, scene, part):
        return scene.ground is not None and part in scene.ground.disks

    @property
    def disk(self):
        return self.scene.ground.disks[self.part]

    def begin(self):
        self.hurt()
        self.begun = True

    def heal(self):
        if self.begun:
            self.mend()


class MediumDiskFull(OfDisk):
    """Full to the brim, or with a little room."""

    def hurt(self):
        self.disk.fill(self.rng.choice((0, self.rng.randrange(3 << 20))))

    def mend(self):
        self.disk.empty()


class MediumDiskReadOnly(OfDisk):
    """Mounted read-only of a sudden, as a kernel does with a file system that it has found damaged."""

    def hurt(self):
        self.disk.protect()

    def mend(self):
        self.disk.unprotect()


class MediumUnmounted(OfDisk):
    """The empty directory is there on which it was mounted."""

    def hurt(self):
        self.scene.ground.unmount(self.part)

    def mend(self):
        found = os.listdir(self.grid.medium_path(self.part))
        self.scene.ground.mount(self.part)
        assert found == [], f"where no medium was mounted something was written: {found}"


# --- damage -------------------------------------------------------------------------------------


class Damage(Fault):
    """Objects of one medium that have a copy elsewhere are damaged where they lie; `heal` mends them.

    Only such objects: what has its one copy there would be lost, as anybody expects.
    """

    count = 3

    def begin(self):
        self.kept = {}
        for path in self.chosen():
            with open(path, "rb") as file:
                data = file.read()
            self.kept[path] = data
            self.hurt(path, data)

    def chosen(self):
        rows = self.scene.sql(
            "SELECT c.name FROM v_copies c WHERE c.medium_state = 'up' "
            "AND c.kind IN ('container', 'manifest') "
            f"AND c.medium = '{self.part}' AND (SELECT count(DISTINCT o.failure_domain) "
            "FROM v_copies o WHERE o.object = c.object AND o.medium_state = 'up') >= 2 ORDER BY c.name"
        )
        names = [row[0] for row in rows]
        root = self.grid.medium_path(self.part)
        return [os.path.join(root, name) for name in self.rng.sample(names, min(self.count, len(names)))]

    def hurt(self, path, data):
        raise NotImplementedError

    def heal(self):
        for path, data in self.kept.items():
            if os.path.exists(path):  # a repair may have taken the bad copy away
                with open(path, "wb") as file:
                    file.write(data)


class MediumCorrupted(Damage):
    """Some bytes of stored objects are others."""

    def hurt(self, path, data):
        with open(path, "r+b") as file:
            for _ in range(3):
                at = self.rng.randrange(len(data))
                file.seek(at)
                file.write(bytes([data[at] ^ (1 << self.rng.randrange(8))]))


class MediumTruncated(Damage):
    """Stored objects are shorter."""

    def hurt(self, path, data):
        os.truncate(path, self.rng.randrange(len(data)))
