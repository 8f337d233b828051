"""Commands find the fake manager instead of a home."""

import pytest

from staddle.client import connection
from staddle.client.connection import ClientSettings
from staddle.wire.endpoint import NO_CREDENTIALS

from .kit import FakeManager


@pytest.fixture
def manager(monkeypatch):
    settings = ClientSettings(
        name="c", host="c", role="admin", grid=b"", manager_urls=["mem://daily"], credentials=NO_CREDENTIALS
    )
    monkeypatch.setattr(connection, "home_from_environment", lambda home: home)
    monkeypatch.setattr(connection, "local_settings", lambda home: settings)
    with FakeManager() as running:
        yield running
