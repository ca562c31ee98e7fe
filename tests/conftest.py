"""What tests of several folders share."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests import postgres

settings.register_profile("manent", deadline=None)  # no test asserts a time
settings.load_profile("manent")


@pytest.fixture(scope="session")
def postgres_server():
    """A real PostgreSQL (`tests.postgres.Server`); where none can be had, the test is skipped with the reason."""
    server = postgres.running()
    try:
        found = server.__enter__()
    except postgres.Absent as error:
        pytest.skip(str(error))
    yield found
    server.__exit__(None, None, None)


@pytest.fixture
def postgres_url(postgres_server):
    """The URL of an empty database on it."""
    url = postgres_server.database()
    yield url
    postgres_server.drop(url)
