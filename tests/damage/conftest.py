"""These tests share a module, and benches of the unit tests, which importlib mode does not find itself."""

import os
import sys

_HERE = os.path.dirname(__file__)
_UNIT = os.path.join(os.path.dirname(_HERE), "unit")

for _path in (_HERE, _UNIT, os.path.join(_UNIT, "agent")):
    sys.path.insert(0, _path)
