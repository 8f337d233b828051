"""Names below a restore's root: by directory descriptors where the system has them, else by path."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    from staddle.client.places_windows import Places
else:
    from staddle.client.places_posix import Places

__all__ = ["Places"]
