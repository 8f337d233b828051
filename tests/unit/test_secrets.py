"""Secrets are read late and never shown."""

import os
import pickle
import sys

import msgspec
import pytest

from staddle.errors import Denied
from staddle.secrets import Secret, SecretRef, redact


def test_a_secret_is_never_shown():
    secret = Secret("hunter2")
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret:>20}",
        f"{secret!r}",
        repr([secret]),
        f"{secret!s:10}",
    ]
    assert all("hunter2" not in text for text in shown)
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2")
    assert secret != Secret("other")
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_three_places(tmp_path, monkeypatch):
    file = tmp_path / "key"
    file.write_text("from file\n")
    file.chmod(0o600)
    monkeypatch.setenv("S_ENV", "from env")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert SecretRef(file=str(file)).resolve().reveal() == "from file"
    assert SecretRef(env="S_ENV").resolve().reveal() == "from env"
    assert SecretRef(credential="key").resolve().reveal() == "from file"


def test_it_is_read_late(monkeypatch):
    ref = msgspec.convert({"env": "S_LATE"}, SecretRef)
    with pytest.raises(Denied, match="S_LATE"):
        ref.resolve()
    monkeypatch.setenv("S_LATE", "x")
    assert ref.resolve().reveal() == "x"


@pytest.mark.parametrize(
    "raw", [{}, {"file": "a", "env": "b"}, {"file": ""}, {"other": "x"}, {"credential": "a/b"}, "x"]
)
def test_other_references_are_refused(raw):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(raw, SecretRef)


def test_what_is_missing_empty_or_no_text_is_denied_without_showing_it(tmp_path):
    for content in (b"", b" \n", b"\xff\xfesecret", b"x" * 70_000):
        file = tmp_path / "key"
        file.write_bytes(content)
        file.chmod(0o600)
        with pytest.raises(Denied) as caught:
            SecretRef(file=str(file)).resolve()
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None
    with pytest.raises(Denied):
        SecretRef(file=str(tmp_path / "none")).resolve()


if sys.platform != "win32":

    def test_a_file_open_to_all_is_refused(tmp_path):
        file = tmp_path / "key"
        file.write_text("x")
        os.chmod(file, 0o644)
        with pytest.raises(Denied, match="open to all"):
            SecretRef(file=str(file)).resolve()


@pytest.mark.parametrize(
    "text",
    [
        "password=hunter2 failed",
        'connect(user="a", password="hunter2")',
        "{'secret_key': 'hunter2', 'x': 1}",
        "https://user:" + "hunter2@host/path",
        "Authorization: Bearer hunter2hunter2",
        "AWS_SECRET_ACCESS_KEY: hunter2",
        "api-key = hunter2",
    ],
)
def test_redact(text):
    assert "hunter2" not in redact(text)
    assert "********" in redact(text)


def test_redact_leaves_the_rest():
    text = "tcp://10.0.0.1:7420 lost, 3 keys, tokens: see https://host/path?x=1"
    assert redact("nothing to hide: a=b") == "nothing to hide: a=b"
    assert "tcp://10.0.0.1:7420 lost" in redact(text)
