"""How long and how large a field of a request may be.

Requests are decoded into types with these bounds, so a peer can put nothing into the manager's log, state or
catalog that is out of all proportion, or that they can't hold. Messages made here are not checked: bounds are
generous against what this product sends.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

_NO_CONTROL = r"\A[^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]*\Z"

Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""A count, size, number or time: what the catalog's columns hold."""
Name = Annotated[str, Meta(max_length=256, pattern=_NO_CONTROL)]
"""Of a client, backup, pool, medium or agent; it is shown on terminals."""
Line = Annotated[str, Meta(max_length=16_384, pattern=_NO_CONTROL)]
"""A reason given by people."""
Text = Annotated[str, Meta(max_length=16_384)]
"""A message given by a program; may have several lines."""
Address = Annotated[str, Meta(max_length=1024, pattern=_NO_CONTROL)]
"""A URL."""
Session = Annotated[bytes, Meta(max_length=64)]
"""What a client process has chosen for itself."""
Id = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""Of an object."""
Digest = Annotated[bytes, Meta(max_length=32)]
"""BLAKE3-256; empty where it is not known."""
RawPath = Annotated[bytes, Meta(max_length=1 << 16)]
"""A path."""
