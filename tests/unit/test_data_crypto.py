"""Keys, the recovery key's text, the keyring."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from staddle.api.types import Kind
from staddle.data import crypto, keyring
from staddle.data.crypto import SUITES, ChunkerSpec, DomainKeys, RecoveryKey, aead
from staddle.data.envelope import FOOTER_BYTES, HEAD_BYTES, encode_head
from staddle.errors import Corrupt, Denied, NewerFormat, StaddleError, UsageError

GRID = b"g" * 16
KEYS = DomainKeys(
    domain="default",
    domain_id=b"d" * 16,
    fingerprint_key=b"f" * 32,
    wrapping_keys={1: b"1" * 32, 2: b"2" * 32},
    current=2,
    chunker=ChunkerSpec(seed=5),
    grid=GRID,
)


@given(st.binary(min_size=32, max_size=32))
def test_recovery_key_survives_its_text_form(key):
    text = RecoveryKey(key).text()
    assert RecoveryKey.parse(text).key == key
    assert RecoveryKey.parse(f"\n {text.lower().replace('-', ' ')} ").key == key


@given(st.binary(min_size=32, max_size=32), st.integers(0, 55), st.integers(1, 31))
def test_every_single_typing_error_in_a_recovery_key_is_found(key, place, shift):
    letters = list(RecoveryKey(key).text().replace("-", "")[4:])
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    letters[place] = alphabet[(alphabet.index(letters[place]) + shift) % 32]
    with pytest.raises(Denied, match="typing error"):
        RecoveryKey.parse("SRK1" + "".join(letters))


@pytest.mark.parametrize(
    ("text", "error"),
    [("", UsageError), ("hello", UsageError), ("SRK1-ABC", UsageError), ("SRK2-" + "A" * 56, NewerFormat)],
)
def test_what_is_no_recovery_key_is_said_so(text, error):
    with pytest.raises(error):
        RecoveryKey.parse(text)


def test_letters_that_look_like_digits_are_taken_for_them():
    text = RecoveryKey(bytes(32)).text()
    assert RecoveryKey.parse("SRK1" + text[4:].replace("0", "o")).key == bytes(32)


def test_no_repr_shows_a_key():
    ring = keyring.Keyring(grid=GRID, created_ns=1, domains=[KEYS])
    shown = repr([KEYS, RecoveryKey(b"r" * 32), aead(1, b"a" * 32), ring])
    assert not any(letter * 8 in shown for letter in "fra12")


@pytest.mark.parametrize("suite", SUITES)
def test_aead_refuses_any_other_nonce_aad_key_or_data(suite):
    cipher, nonce = aead(suite, b"k" * 32), b"n" * 12
    out = bytearray(5 + crypto.TAG_BYTES)
    assert cipher.encrypt_into(nonce, b"hello", b"aad", memoryview(out)) == len(out)
    assert cipher.decrypt(nonce, out, b"aad") == b"hello"
    assert bytes(out) == cipher.encrypt(nonce, b"hello", b"aad")
    for wrong in [
        (b"m" * 12, out, b"aad"),
        (nonce, out, b"aae"),
        (nonce, out[:-1], b"aad"),
        (nonce, b"", b"aad"),
    ]:
        with pytest.raises(Corrupt):
            cipher.decrypt(*wrong)
    with pytest.raises(Corrupt):
        aead(suite, b"l" * 32).decrypt(nonce, out, b"aad")


def test_an_unknown_suite_is_a_newer_format():
    with pytest.raises(NewerFormat):
        aead(3, bytes(32))


def test_wrapped_keys_open_only_for_what_they_were_wrapped_for():
    blob = KEYS.wrap(b"k" * 32, b"c0" + b"i" * 16, b"n" * 12)
    assert len(blob) == crypto.WRAPPED_KEY_BYTES
    assert KEYS.unwrap(2, blob, b"c0" + b"i" * 16) == b"k" * 32
    with pytest.raises(Corrupt):
        KEYS.unwrap(2, blob, b"f0" + b"i" * 16)
    with pytest.raises(Corrupt):
        KEYS.unwrap(1, blob, b"c0" + b"i" * 16)
    with pytest.raises(Denied, match="wrapping key 3"):
        KEYS.unwrap(3, blob, b"c0" + b"i" * 16)


def test_old_wrapping_keys_read_on_after_a_rotation():
    before = msgspec.structs.replace(KEYS, current=1)
    assert KEYS.unwrap(1, before.wrap(b"k" * 32, b"", b"n" * 12), b"") == b"k" * 32


@pytest.mark.parametrize("change", [{"current": 9}, {"domain_id": b""}, {"wrapping_keys": {2: b"short"}}])
def test_impossible_domain_keys_are_refused(change):
    with pytest.raises(ValueError, match=r"a domain has|the current wrapping key"):
        msgspec.structs.replace(KEYS, **change)


def test_fingerprints_and_derived_keys_differ_by_key_and_context():
    other = msgspec.structs.replace(KEYS, fingerprint_key=b"x" * 32)
    assert KEYS.fingerprint(b"data") != other.fingerprint(b"data") != crypto.digest([b"data"])
    assert crypto.derive(b"k" * 32, "staddle a") != crypto.derive(b"k" * 32, "staddle b")
    assert crypto.digest([b"da", b"", b"ta"]) == crypto.digest([b"data"])
    assert crypto.best_suite() in SUITES


def ring(created_ns=7):
    return keyring.encode(RecoveryKey(b"r" * 32), GRID, [KEYS], b"n" * 12, created_ns)


def test_keyring_brings_back_every_key():
    decoded = keyring.decode(RecoveryKey(b"r" * 32), ring())
    assert (decoded.grid, decoded.created_ns, decoded.domains) == (GRID, 7, [KEYS])
    assert KEYS.fingerprint_key not in ring()


def test_keyring_of_another_recovery_key_is_denied():
    with pytest.raises(Denied, match="does not open"):
        keyring.decode(RecoveryKey(b"s" * 32), ring())


def test_every_damaged_byte_of_a_keyring_is_noticed():
    whole = ring()
    for at in range(len(whole)):
        with pytest.raises(Corrupt):
            keyring.decode(RecoveryKey(b"r" * 32), whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(Corrupt):
            keyring.decode(RecoveryKey(b"r" * 32), whole[:at])


def test_a_newer_keyring_is_refused_as_newer():
    whole = ring()
    body = whole[HEAD_BYTES:-FOOTER_BYTES]
    head = encode_head(Kind.KEYRING, 2, {"later": "1"})
    footer = crypto_footer(version=2, head=head, body=body)
    with pytest.raises(NewerFormat):
        keyring.decode(RecoveryKey(b"r" * 32), head + body + footer)


def crypto_footer(version, head, body):
    from staddle.data.envelope import Footer

    return Footer(
        version=version,
        chunks=0,
        sealed_offset=HEAD_BYTES,
        sealed_bytes=len(body),
        plain_bytes=1,
        digest=crypto.digest([head, body]),
    ).encode()


@given(st.binary(max_size=3000))
def test_no_bytes_crash_the_keyring_reader(data):
    with pytest.raises(StaddleError):
        keyring.decode(RecoveryKey(b"r" * 32), data)
