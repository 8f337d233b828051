#!/usr/bin/env python3
"""Restore files from Staddle media without Staddle: the volumes, the recovery key, and this one file.

    staddle_rescue.py --recovery-key FILE MEDIUM_DIR... list
    staddle_rescue.py --recovery-key FILE MEDIUM_DIR... restore BACKUP [PATH] --to DIR

Needs Python 3.11, cryptography and zstandard. Give all media (directories): any sound copy of an object will
do. Nothing is written outside of --to. Exit code 0: well; 3: warnings; 1: failed. Format: docs/format.md.
"""
# ruff: noqa: ANN001, ANN201, ANN204 - a page to be read by people, not a library

import argparse
import contextlib
import functools
import hashlib
import hmac
import mmap
import os
import re
import stat
import struct
import sys

import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

WORDS = {"c0": "container", "f0": "manifest", "5e": "seal", "4e": "keyring", "e0": "journal"}
FILE, DIRECTORY, SYMLINK, HARDLINK, IMAGE, STREAM = 1, 2, 3, 4, 9, 10  # others but nodes are not restored
NODES = {5: stat.S_IFIFO, 6: stat.S_IFSOCK, 7: stat.S_IFBLK, 8: stat.S_IFCHR}
PART, LAST, ZERO_REGION, NAME, warnings = 1, 2, 0xFFFFFFFF, re.compile("[0-9a-f]{48}"), []
COLUMNS = "dir:I type:B mode:I uid:I gid:I mtime_ns:q offset:Q flags:H link:I extra:I"  # as far as used here
COLUMNS = dict(column.split(":") for column in COLUMNS.split())
KINDS = "BHI...fdBHIQbhiq.....BHIHIHI"  # msgpack: struct letters of numbers and lengths, from code 0xc4 on


@contextlib.contextmanager
def tolerant(what):
    """Turn any failure into a warning."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one object, the rest is worth saving
        why = error.strerror if isinstance(error, OSError) else isinstance(error, UserWarning) and error
        warnings.append(f"warning: {what}: {why or 'damaged, or not possible on this system'}")
        print("".join(c if c.isprintable() else ascii(c)[1:-1] for c in warnings[-1]), file=sys.stderr)


def numbers(data, kind):
    """A column of little-endian numbers."""
    return struct.unpack(f"<{len(data) // struct.calcsize('<' + kind)}{kind}", data)


def unmsgpack(data, at=0):
    """(value, end) of the msgpack value at `at`."""
    code, at = data[at], at + 1
    if code < 0x80 or code >= 0xE0:
        return code - (256 if code >= 0xE0 else 0), at
    if 0xC0 <= code <= 0xC3:
        return (None, None, False, True)[code & 3], at
    if code < 0xC0:
        what, size = ("map", "seq", "str", "str")[(code >> 4) - 8], code & (0x1F if code >= 0xA0 else 0x0F)
    else:
        what = ("map", "seq", "str", "num", "bin")[sum(code < limit for limit in (0xDE, 0xDC, 0xD4, 0xC7))]
        kind = ">" + KINDS[code - 0xC4]
        size, at = struct.unpack_from(kind, data, at)[0], at + struct.calcsize(kind)
    if what == "num":
        return size, at
    if what in {"bin", "str"}:
        raw = data[at : at + size]
        return (raw if what == "bin" else raw.decode("utf-8", "replace")), at + size
    flat = []
    for _ in range(size * 2 if what == "map" else size):
        value, at = unmsgpack(data, at)
        flat.append(value)
    return (dict(zip(flat[::2], flat[1::2], strict=True)) if what == "map" else flat), at


def parse_recovery_key(text):
    """32 bytes of key from SRK1-..."""
    letters, alphabet = re.sub(r"[\s-]", "", text).upper(), "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    digits = [max(0, alphabet.find(each)) for each in letters[4:60].translate(str.maketrans("OIL", "011"))]
    raw = functools.reduce(lambda number, digit: number << 5 | digit, digits, 0).to_bytes(35, "big")
    check = hashlib.sha256(b"staddle recovery key 1" + raw[:32]).digest()[:3]
    if letters[:4] != "SRK1" or len(letters) != 60 or raw[32:] != check:
        sys.exit("error: the file holds no recovery key (SRK1-...), or there is a typing error in it")
    return raw[:32]


def unseal(path, kind, keys, recovery_key=b""):
    """(id, cipher, content) of an object: rows of a container's directory, or what a body says."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        head, bound, own_id = data[:1024], data[-80:-40], bytes.fromhex(os.path.basename(path)[:32])
        _, version, n, start, length, _ = struct.unpack("<8sIIQQQ", bound)
        if version != 1 or not head.startswith(f"STADDLE {WORDS[kind]} 1\n".encode()):
            raise UserWarning("damaged, or another kind of object, or of a newer format")
        sealed = data[start : start + length]
    fields = dict(line.split(": ") for line in head.decode().split("\n\n")[0].split("\n")[1:])
    if kind == "4e":
        extracted = hmac.digest(bytes.fromhex(fields["grid"]), recovery_key, "sha256")  # HKDF, RFC 5869
        key = hmac.digest(extracted, b"staddle keyring 1\x01", "sha256")
    else:
        wrapped = bytes.fromhex(fields["wrapped-key"])
        wrapping = AESGCM(keys[fields["domain"]]["wrapping_keys"][int(fields["key-version"])])
        key = wrapping.decrypt(wrapped[:12], wrapped[12:], kind.encode() + own_id)
    cipher = AESGCM(key) if fields["suite"] == "1" else ChaCha20Poly1305(key)
    plain = cipher.decrypt(bytes.fromhex(fields.get("nonce", "ff" * 12)), sealed, head + bound)
    if kind != "c0":
        return own_id, cipher, unmsgpack(zstandard.decompress(plain))[0]
    cells = struct.unpack(f"<{'32s' * n}{n}Q{n}I{n}I{n}B", plain)
    return own_id, cipher, list(zip(*(cells[at * n : at * n + n] for at in range(5)), strict=True))


class Rescue:
    """All media together, and the directory to restore to, outside of which nothing is written."""

    def __init__(self, roots, recovery_key, to):
        self.to, self.links, self.dirs, self.flags, rings = os.path.realpath(os.fsencode(to)), [], [], [], []
        self.paths = {kind: {} for kind in WORDS}
        for root, kind in ((root, kind) for root in roots for kind in WORDS):
            for folder, _, names in os.walk(os.path.join(root, kind)):
                for name in (n for n in names if NAME.fullmatch(n) and os.path.isfile(f"{folder}/{n}")):
                    self.paths[kind].setdefault(name[:32], []).append(os.path.join(folder, name))
        for path in (path for paths in self.paths["4e"].values() for path in paths):
            with tolerant(path):
                rings.append(unseal(path, "4e", {}, recovery_key)[2])
        if not rings:
            sys.exit("error: no keyring on these media that this recovery key opens")
        newest = max(rings, key=lambda ring: ring["created_ns"])
        keys = {domain["domain_id"].hex(): domain for domain in newest["domains"]}
        self.unseal = functools.lru_cache(maxsize=8)(lambda path, kind: unseal(path, kind, keys))

    def body(self, kind, name):
        """The content of an object, from any sound copy."""
        for path in self.paths[kind].get(name, ()):
            with tolerant(path):
                return self.unseal(path, kind)[2]
        raise UserWarning(f"{WORDS[kind]} {name} is missing or damaged on all of these media")

    def seals(self):
        """Backup number -> seal, without the pruned ones."""
        bodies = {"5e": [], "e0": []}
        for kind, name in ((each, name) for each in bodies for name in sorted(self.paths[each])):
            with tolerant("backups"):
                bodies[kind].append(self.body(kind, name))
        pruned = {number for entry in bodies["e0"] if entry["kind"] == "prune" for number in entry["backups"]}
        ordered = sorted(bodies["5e"], key=lambda seal: seal["manager_epoch"])
        return {seal["backup"]: seal for seal in ordered if seal["backup"] not in pruned}

    def manifests(self, seal):
        """What gives each manifest of a backup: stream after stream, each from its first segment on."""
        for stream in seal["streams"]:
            chain, name = [], stream["last_manifest_id"]
            with tolerant(f"stream {stream['stream']}, earlier segments"):
                while name is not None and len(chain) < stream["segments"]:
                    chain, name = [*chain, name.hex()], self.body("f0", name.hex())["head"]["previous_id"]
            yield from (functools.partial(self.body, "f0", each) for each in reversed(chain))

    def chunk(self, fingerprint, name, ordinal):
        """Raw bytes of a chunk: from where the manifest says, else from wherever its fingerprint is."""
        hint = [(path, ordinal) for path in self.paths["c0"].get(name, ())]
        for places in (lambda: hint, lambda: self.everywhere.get(fingerprint, ())):
            for path, n in places():
                with tolerant(f"{path}, chunk {n}"), open(path, "rb") as file:
                    container_id, cipher, rows = self.unseal(path, "c0")
                    _, start, size, _, flags = rows[n]
                    file.seek(start)
                    data = cipher.decrypt(n.to_bytes(12, "big"), file.read(size), fingerprint + container_id)
                    return zstandard.decompress(data) if flags & 1 else data
        raise UserWarning(f"chunk {fingerprint.hex()} is missing or damaged on all of these media")

    @functools.cached_property
    def everywhere(self):
        """Fingerprint -> places, by the directories of all containers. Slow: only for what was repacked."""
        found = {}
        for path in (path for paths in self.paths["c0"].values() for path in paths):
            with tolerant(path):
                for n, row in enumerate(self.unseal(path, "c0")[2]):
                    found.setdefault(row[0], []).append((path, n))
        return found

    def place(self, path, clear):
        """Where a source path goes. The directories above it are made, and must be real ones."""
        parts = [part for part in path.split(b"/") if part]
        if {b".", b".."} & set(parts) or b"\0" in path or (os.name == "nt" and set(path) & set(b"\\:")):
            raise UserWarning("this path cannot be restored safely")
        if os.path.realpath(above := os.path.join(self.to, *parts[:-1])) != above:
            raise UserWarning(f"a link is in the way: {os.fsdecode(above)}")
        os.makedirs(above, 0o700, exist_ok=True)
        if os.path.lexists(place := os.path.join(above, *parts[-1:])) and clear:
            os.remove(place)
        return place

    def manifest(self, body, want):
        """Restore what lies at or below the path `want` (b"" for all) of one segment."""
        entries, chunks = body["entries"], body["chunks"]
        dirs, links = entries["dirs"].split(b"\0"), entries["links"].split(b"\0")
        rows = zip(*(numbers(entries["columns"][name], kind) for name, kind in COLUMNS.items()), strict=True)
        refs = zip(*(numbers(body[name], "I") for name in ("chunk_first", "chunk_count")), strict=True)
        kinds = {"container": "I", "ordinals": "I", "lengths": "Q"}.items()
        pieces = list(zip(*(numbers(chunks[name], kind) for name, kind in kinds), strict=True))
        for row, name, (first, count) in zip(rows, entries["names"].split(b"\0"), refs, strict=False):
            with tolerant(f"a row for {os.fsdecode(name)}"):
                meta = dict(zip(COLUMNS, row, strict=True))
                path = dirs[meta["dir"]].rstrip(b"/") + b"/" + name
                meta["link"] = links[meta["link"] - 1] if meta["link"] else b""
                meta["extra"] = unmsgpack(entries["extras"][meta["extra"] - 1])[0] if meta["extra"] else {}
                if path == want or path.startswith(want + b"/"):
                    with tolerant(os.fsdecode(path)):
                        self.entry(path, meta, chunks, [(k, *pieces[k]) for k in range(first, first + count)])

    def entry(self, path, meta, chunks, pieces):
        """Restore one row; links and the metadata of directories wait for `finish`."""
        kind, at, final = meta["type"], meta["offset"], meta["flags"] & (PART | LAST) != PART
        place = self.place(path, clear=kind not in {DIRECTORY, SYMLINK, HARDLINK} and at == 0)
        if kind == DIRECTORY:
            self.dirs.append((place, meta))
            os.makedirs(place, 0o700, exist_ok=not os.path.islink(place))
        elif kind in {SYMLINK, HARDLINK}:
            self.links.append((path, meta))
        elif kind in {FILE, IMAGE, STREAM}:
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
            with os.fdopen(os.open(place, flags, 0o600), "r+b") as out:
                for k, index, ordinal, length in pieces:
                    out.seek(at)
                    if index != ZERO_REGION:
                        name = chunks["containers"][16 * index : 16 * index + 16].hex()
                        out.write(self.chunk(chunks["fingerprints"][32 * k :][:32], name, ordinal))
                    at += length
                if final:
                    out.truncate(at)
        elif kind in NODES:
            os.mknod(place, NODES[kind] | 0o600, os.makedev(*meta["extra"].get("rdev", (0, 0))))
        else:
            raise UserWarning(f"an entry of type {kind}, not restored")
        if final and kind not in {DIRECTORY, SYMLINK, HARDLINK}:
            self.metadata(place, meta)

    def metadata(self, place, meta):
        """Owner (root), mode, extended attributes, time: whatever the system lets us set, in this order."""
        link, me = meta["type"] == SYMLINK, os.geteuid() if hasattr(os, "geteuid") else None
        extra, follow = meta["extra"], {"follow_symlinks": False} if link else {}
        seconds, rest = extra.get("times", {}).get("mtime", divmod(meta["mtime_ns"], 10**9))
        mode, then = meta["mode"] & (0o7777 if me in {0, meta["uid"]} else 0o777), seconds * 10**9 + rest
        steps = [functools.partial(os.chown, place, meta["uid"], meta["gid"])] if me == 0 else []
        steps += [functools.partial(os.setxattr, place, *each) for each in extra.get("xattr", {}).items()]
        steps += [functools.partial(os.chmod, place, mode)] if not link else []
        for step in [*steps, functools.partial(os.utime, place, ns=(then, then))]:
            with tolerant(os.fsdecode(place)):
                step(**follow)
        self.flags += [(place, extra["fs_flags"])] if extra.get("fs_flags") else []

    def finish(self):
        """Make symbolic links, then hard ones: nothing is written through one. Then set directories."""
        for path, meta in sorted(self.links, key=lambda each: each[1]["type"]):
            with tolerant(f"{os.fsdecode(path)}, a link to {os.fsdecode(meta['link'])}"):
                place = self.place(path, clear=True)
                if meta["type"] == HARDLINK:
                    os.link(self.place(meta["link"], clear=False), place, follow_symlinks=False)
                else:
                    os.symlink(meta["link"], place)
                    self.metadata(place, meta)
        for place, meta in reversed(self.dirs):
            self.metadata(place, meta)
        for place, flags in self.flags:  # the very last: what is immutable takes no change, and no link
            with tolerant(os.fsdecode(place)):
                ioctl = __import__("fcntl").ioctl  # not on every system
                fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW)
                now = struct.unpack("=Q", ioctl(fd, 0x80086601, bytes(8)))[0]  # ioctl_iflags(2)
                ioctl(fd, 0x40086602, struct.pack("=Q", now | flags))
                os.close(fd)


def main():
    """Command line."""
    parser = argparse.ArgumentParser(usage=__doc__)
    for name, more in {"--recovery-key": {"required": True}, "--to": {}, "words": {"nargs": "+"}}.items():
        parser.add_argument(name, **more)
    words = (options := parser.parse_intermixed_args()).words
    verb = next((at for at, word in enumerate(words) if word in {"list", "restore"}), 0)
    if not verb or (words[verb] == "restore" and (not options.to or len(words) - verb not in {2, 3})):
        parser.error("see above")
    with tolerant(options.recovery_key), open(options.recovery_key, "rb") as file:
        options.recovery_key = file.read().decode("utf-8", "replace")
    rescue = Rescue(words[:verb], parse_recovery_key(options.recovery_key), options.to or "")
    seals = {str(number): seal for number, seal in sorted(rescue.seals().items())}
    if words[verb] == "list":
        for number, seal in seals.items():
            print(number, seal["client"], seal["name"], seal["state"], seal["files"], "files", sep="  ")
    elif words[verb + 1] not in seals:
        sys.exit(f"error: no backup {words[verb + 1]} on these media; 'list' shows them")
    else:
        for body in rescue.manifests(seals[words[verb + 1]]):
            with tolerant("a part of the backup"):
                rescue.manifest(body(), os.fsencode("".join(words[verb + 2 :])).rstrip(b"/"))
        rescue.finish()
    return 3 if warnings else 0


if __name__ == "__main__":
    sys.exit(main())
