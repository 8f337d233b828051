"""A scene to be broken, as a fixture; and the way to the modules that importlib mode does not find."""

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from scene import Scene


@pytest.fixture
def scene(tmp_path, seed):
    """Three agents, three media, two copies; 40 MiB that take some seven seconds."""
    with Scene(tmp_path, seed) as made:
        yield made
