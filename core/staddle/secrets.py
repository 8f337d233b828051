"""Secrets by reference: configuration names where a secret is kept, and it is read when it is needed.

A `SecretRef` in a plugin's config type is one of `{file = "…"}`, `{env = "NAME"}` and `{credential = "NAME"}`
(a systemd credential). What `resolve` returns is a `Secret`: no repr, format or log line shows its value.
"""

from __future__ import annotations

import os
import re
import sys
from typing import NoReturn

import msgspec

from staddle.api.types import HomePath
from staddle.errors import Denied

SECRET_BYTES_MAX = 64 * 1024
MASK = "********"

# Every part is bounded: foreign text must not make a search take longer than its length deserves.
# Words after which a value is taken for a secret in free text. Long options and URL parts included.
_WORDS = r"(?:password|passwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|passphrase)"
_NAMED_SECRET = re.compile(
    rf"""(?ix) ({_WORDS} [\w.-]{{0,64}} ["']? \s{{0,16}} [:=] \s{{0,16}})
         ("[^"]*" | '[^']*' | [^\s,;&)}}\]]+)"""
)
_URL_PASSWORD = re.compile(r"(?i)([a-z][a-z0-9+.-]{0,31}://[^/\s:@]{0,256}:)([^/\s@]{1,4096})(@)")
_BEARER = re.compile(r"(?i)(\b(?:bearer|basic)\s+)([A-Za-z0-9._~+/=-]{8,})")


class Secret:
    """A value that is never shown. `reveal()` is the one way to it, easy to find in review."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Args: value: the secret text."""
        self._value = value

    def reveal(self) -> str:
        """The value itself: hand it to an SDK, never to a log or an error."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled: pass its SecretRef and resolve it at the other end")


class SecretRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a secret is kept: exactly one of the three is set.

    Attributes:
        file: a file that holds nothing else; relative to the grid's home.
        env: an environment variable.
        credential: a systemd credential, in `$CREDENTIALS_DIRECTORY`.
    """

    file: HomePath | None = None
    env: str | None = None
    credential: str | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.file, self.env, self.credential) if value is not None]
        if len(given) != 1 or not given[0]:
            raise ValueError('a secret is one of {file = "…"}, {env = "…"} and {credential = "…"}')
        if self.credential is not None and (os.sep in self.credential or "/" in self.credential):
            raise ValueError("a credential is a plain name, not a path")

    def describe(self) -> str:
        """The place, for messages: it shows no secret."""
        if self.file is not None:
            return f"file {self.file}"
        return f"environment variable {self.env}" if self.env is not None else f"credential {self.credential}"

    def resolve(self) -> Secret:
        """Read the secret now. Raises Denied if it is not there, is empty or is open to other users."""
        if self.env is not None:
            value = os.environ.get(self.env, "")
            if not value:
                raise Denied(f"{self.describe()} is not set", hint="export it where the daemon starts")
            return Secret(value)
        path = self.file if self.file is not None else self._credential_path()
        return Secret(self._read(path))

    def _credential_path(self) -> str:
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise Denied(
                f"{self.describe()}: no CREDENTIALS_DIRECTORY in the environment",
                hint="start the daemon by systemd with LoadCredential=, or use a file reference",
            )
        return os.path.join(directory, self.credential or "")

    def _read(self, path: str) -> str:
        try:
            with open(path, "rb") as file:
                _check_mode(path, os.fstat(file.fileno()).st_mode)
                data = file.read(SECRET_BYTES_MAX + 1)
        except OSError as error:
            raise Denied(
                f"{self.describe()} can't be read: {error.strerror}", hint="check its path and its owner"
            ) from None
        if not data.strip() or len(data) > SECRET_BYTES_MAX:
            raise Denied(f"{self.describe()} is empty or larger than {SECRET_BYTES_MAX} bytes")
        try:
            return data.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            # `from None`: the decoding error carries the bytes.
            raise Denied(f"{self.describe()} is not text in UTF-8") from None


def _check_mode(path: str, mode: int) -> None:
    """A secret that every user can read is refused: it is none. Windows keeps ACLs, not modes."""
    if sys.platform != "win32" and mode & 0o007:
        raise Denied(f"{path} is open to all users", hint=f"chmod o= {path}")


def redact(text: str) -> str:
    """`text` with everything that looks like a secret masked, for logs that quote foreign text.

    That is: values after words such as password or token, the password part of a URL, bearer tokens.
    """
    text = _URL_PASSWORD.sub(rf"\g<1>{MASK}\g<3>", text)
    text = _BEARER.sub(rf"\g<1>{MASK}", text)
    return _NAMED_SECRET.sub(rf"\g<1>{MASK}", text)
