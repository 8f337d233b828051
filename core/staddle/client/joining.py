"""What a host keeps of its membership: certificate, key and `client.toml`, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec

from staddle.client.connection import CLIENT_NAME, JoinedClient
from staddle.errors import Locked
from staddle.platform.construction import marker_of, under_construction
from staddle.wire.join import Joined
from staddle.wire.pki import write_credentials

_OWN = ("ca.crt", "own.crt", "own.key")


@contextmanager
def membership(directory: str) -> Iterator[Callable[[Joined, str], JoinedClient]]:
    """Claim a directory before a token is used up; gives what keeps the answer, with the manager's URL.

    What a join that was cut off has left there is replaced.

    Raises:
        Locked: this host has joined already, or the keys of another member lie there.
        OSError: the file system.
    """
    settings = os.path.join(directory, CLIENT_NAME)
    paths = [os.path.join(directory, name) for name in _OWN]

    def check() -> None:
        if os.path.exists(settings):
            raise Locked(f"{settings} exists: this host has joined a grid already", hint="take another --dir")
        taken = [path for path in paths if os.path.exists(path)]
        if taken and not os.path.exists(marker_of(settings)):
            raise Locked(f"{taken[0]} exists already", hint="move it away if it is no longer needed")

    def clear() -> None:
        for path in paths:
            for each in (path, path + ".tmp"):
                with suppress(FileNotFoundError):
                    os.unlink(each)

    with under_construction(settings, check, clear) as finish:

        def keep(joined: Joined, url: str) -> JoinedClient:
            write_credentials(directory, joined.ca_pem, joined.issued)
            table = JoinedClient(name=joined.token.name, grid=joined.token.grid.hex(), managers=[url])
            finish(_toml(table).encode())
            return table

        yield keep


def _toml(table: object) -> str:
    fields = msgspec.to_builtins(table)
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items())
