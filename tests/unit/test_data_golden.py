"""Every version ever written is read for ever: golden files, made by tests/golden/make.py."""

import importlib.util
import os

import pytest

from staddle.api.types import Kind
from staddle.data import keyring, label, manifest, records, seal
from staddle.data.container import ContainerReader
from staddle.data.crypto import RecoveryKey
from staddle.data.sealed import open_object

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden")


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("golden_make", os.path.join(GOLDEN, "make.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(name, version=1):
    with open(os.path.join(GOLDEN, f"v{version}", name), "rb") as file:
        return file.read()


@pytest.mark.parametrize("name", ["container-aes", "container-chacha"])
def test_golden_containers(make, name):
    data = read(name)
    reader = ContainerReader(
        make.KEYS, lambda at, length: data[at : at + length], len(data), make.CONTAINER_ID
    )
    reader.verify()
    assert [raw for _, raw in reader.read([0, 1, 2])] == make.CHUNKS
    assert reader.directory.fingerprints[2].tobytes() == make.KEYS.fingerprint(b"x")


def test_golden_keyring_and_recovery_key(make):
    recovery_key = RecoveryKey.parse(read("recovery-key").decode())
    assert recovery_key == make.RECOVERY_KEY
    ring = keyring.decode(recovery_key, read("keyring"))
    assert (ring.grid, ring.created_ns, ring.domains) == (make.GRID, make.CREATED_NS, [make.KEYS])


def test_golden_manifest(make):
    plain = open_object(make.KEYS, Kind.MANIFEST, make.MANIFEST_ID, read("manifest"))
    found, expected = manifest.decode(plain), make.manifest()
    assert manifest.encode(found) == plain == manifest.encode(expected)
    assert found.entries.paths()[1] == b"/home/\xff/notes \xc3\xa4.txt"
    assert found.entries.columns["mode"].tolist()[1] == 0o4755
    assert found.entries.columns["mtime_ns"].tolist()[0] == -1
    assert found.entries.extra(1) == {"xattr": {b"user.mark": b"\x00\x01"}, "btime_ns": 1}
    assert found.chunks.lengths.tolist()[2] == 1 << 41


def test_golden_seal_and_journal(make):
    plain = open_object(make.KEYS, Kind.SEAL, make.SEAL_ID, read("seal"))
    assert seal.decode_seal(plain) == make.SEAL
    plain = open_object(make.KEYS, Kind.JOURNAL, make.JOURNAL_ID, read("journal"))
    assert seal.decode_journal(plain) == make.JOURNAL


def test_golden_label(make):
    assert label.decode(read("label")) == make.LABEL


def test_golden_records(make):
    files = records.decode_record(read("record-files"), 7000)
    assert files.batch.paths() == make.entries().build().paths()
    assert files.content_lengths.tolist() == [0, 7000, 0, 0, 0, 0]
    part = records.decode_record(read("record-part"), 0)
    assert (part.offset, part.zero_bytes, part.last) == (1 << 20, 1 << 16, True)


def test_every_golden_file_is_made_by_the_script(make):
    assert sorted(os.listdir(os.path.join(GOLDEN, "v1"))) == sorted(make.build())
