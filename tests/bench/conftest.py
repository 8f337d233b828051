"""The bench is made of scripts that share modules, which importlib mode does not find by itself."""

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))
