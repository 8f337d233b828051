"""Files of version 1 as they were first written: every release from then on reads them."""

from __future__ import annotations

import base64
import zlib

import numpy as np

from staddle.dedup.library import Library
from staddle.dedup.ownermap import OwnerMap

# Container 1 (published, merged, removed), container 2, container 3; base85 of zlib.
VERSION_1 = {
    "CURRENT": (
        "c-kv2NlZz}NmWS8%u7!#Dk#d#D^bYFOe#t&s^nq-0!AS2X21?|FD^S8J?lWh#xHYs`51Oi+0+#7+qycjpdcqRH6=c$IFE5<P"
        "JViPT26j`5!0&V{JfIH%)Hd1;v)i#Xkc+sX<o~!^i-g1Vo7Fx9^>kQqSUm^iuk0=l46dPMfv6N$@!&uCCqEnQuC5ii{n!=(^"
        "HE}jtKA--Hv~;^pobP6FL)qPIKO|Dl;!RKer$!wIp={0CV9@C;"
    ),
    "log.0000000002": (
        "c-kv2NlZz}NmWS8%u7!#Dk#d#D^bYFPv>HQ0!AQaV!#d_>6UF}gtB33Qqa`Itgy+<|HStpQbO+@4|}x?NIf%1JsJRsv9d5TF"
        "#=8E<>BVy<X~rm@;TA?|6zQP`4bo+Zv4UsaYF<X!Y#~DS^&*WHb2j~ZJp(He(~g5tB<k!%NfxDR2>VH_CeEs?^>ku3u)zBUT"
        "nO6?Oy3EurOjq159u~F{1f_5ycOCm>_;o06G`|3vDSl"
    ),
    "run.0000000001": (
        "c-kv2NlZz}NmWS8%u7!#Dk#d#D^Vya&EsN#0!AnX0S*RKpfA91f|Z4ti4mxRmxr5+lY^ZNCRfXxu`&fnL*+SP@-VYb2mRnaf"
        "sp?XlV^g;XYw>k>M)|Z0Uu@>#iMu>4?D~Z!~hAe6lw"
    ),
}


def fingerprints(kind):
    return np.array([[partition, kind, *range(30)] for partition in (0, 9, 255)], np.uint8)


def make(directory):
    with Library.open(str(directory), "a", OwnerMap.everyone()) as library:
        library.publish(1, bytes([1]) * 16, fingerprints(1), np.array([100, 200, 300]))
        library.merge()
        library.publish(2, bytes([2]) * 16, fingerprints(2), np.array([400, 500, 600]))
        library.remove_containers([bytes([1]) * 16], lsn=3)
        library.publish(4, bytes([3]) * 16, fingerprints(1)[1:], np.array([700, 800]))


def test_version_1_is_read(tmp_path):
    for name, text in VERSION_1.items():
        (tmp_path / name).write_bytes(zlib.decompress(base64.b85decode(text)))
    for _ in ("as written", "merged"):
        with Library.open(str(tmp_path), "a", OwnerMap.everyone(), verify=True) as library:
            assert library.applied_lsn == 4
            assert library.damaged() == ()
            first, second = library.lookup(fingerprints(1)), library.lookup(fingerprints(2))
            assert first.found.tolist() == [False, True, True]
            assert first.raw_length.tolist() == [0, 700, 800]
            assert first.containers[first.container[1]].tobytes() == bytes([3]) * 16
            assert second.raw_length.tolist() == [400, 500, 600]
            assert second.ordinal.tolist() == [0, 1, 2]
            assert second.containers[second.container[2]].tobytes() == bytes([2]) * 16
            library.merge()


def test_version_1_is_still_what_is_written(tmp_path):
    """If this fails, the format changed: give it a new version number and keep reading the old one."""
    make(tmp_path)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "lock"}
    assert written == {name: zlib.decompress(base64.b85decode(text)) for name, text in VERSION_1.items()}
