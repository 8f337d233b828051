"""Power cuts are modelled for POSIX systems: elsewhere these tests are not collected."""

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))
collect_ignore_glob = ["test_*.py"] if sys.platform == "win32" else []
