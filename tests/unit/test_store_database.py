"""The door to the database: what it opens, what it refuses, and what it says."""

import filecmp
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from autotrader.core.errors import ConfigError, StoreError
from autotrader.store.database import (
    describe,
    downgrade,
    migrations,
    open_store,
    resolve_url,
    revisions,
    upgrade,
)


def test_a_relative_path_starts_from_the_given_folder(tmp_path: Path) -> None:
    with open_store("sqlite:///data/autotrader.db", folder=tmp_path, create=True):
        assert (tmp_path / "data" / "autotrader.db").is_file()
    assert not Path("data/autotrader.db").exists()


def test_an_absolute_path_stays_where_it_is(tmp_path: Path) -> None:
    assert resolve_url(f"sqlite:///{tmp_path}/a.db", folder=Path("elsewhere")).database == f"{tmp_path}/a.db"


def test_postgresql_is_reached_through_psycopg_3() -> None:
    assert resolve_url("postgresql://me@db/desk").drivername == "postgresql+psycopg"


@pytest.mark.parametrize(
    "url",
    ["", "autotrader.db", "sqlite://", "sqlite:///:memory:", "mysql://me:pw@db/x", "postgresql://me:s3cret@db:port/x"],
)
def test_an_address_that_is_none_of_ours_is_wrong_input_and_stays_secret(url: str) -> None:
    with pytest.raises(ConfigError, match=r"database\.db_url") as caught:
        open_store(url)
    assert caught.value.exit_code == 2
    assert "s3cret" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@127.0.0.1:1/desk",
        "postgresql://me@127.0.0.1:1/desk?password=s3cret",
        "postgresql://me:s3cret@/desk?host=/nowhere",
    ],
)
def test_a_server_that_cannot_be_reached_is_one_line_without_the_password(url: str) -> None:
    with pytest.raises(StoreError, match=r"^database postgresql://me.*connection") as caught:
        open_store(url)
    assert caught.value.exit_code == 1
    assert "s3cret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_does_not_exist_is_an_error_and_stays_away(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no such file; `autotrader db upgrade` makes it"):
        open_store("sqlite:///autotrader.db", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_place_of_the_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"unable to open database file"):
        open_store(f"sqlite:///{tmp_path}", create=True)


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(StoreError, match=r"its folder cannot be made: .*File exists"):
        open_store("sqlite:///data/a.db", folder=tmp_path, create=True)


def test_a_file_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    diary = tmp_path / "notes.db"
    diary.write_text("Dear diary, today I lost money. " * 200)
    before = diary.read_bytes()
    for create in (False, True):
        with pytest.raises(StoreError, match="file is not a database"):
            open_store("sqlite:///notes.db", folder=tmp_path, create=create)
    assert diary.read_bytes() == before


def test_a_database_without_the_schema_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    with pytest.raises(StoreError, match=r"has schema none, this version needs \d+: run `autotrader db upgrade`"):
        open_store("sqlite:///a.db", folder=tmp_path)


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    with open_store("sqlite:///a.db", folder=tmp_path, create=True) as store, store.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    for call in (upgrade, open_store):
        with pytest.raises(StoreError, match=r"has schema 9999, newer than \d+ .*: update autotrader"):
            call("sqlite:///a.db", folder=tmp_path)


def test_upgrading_twice_changes_nothing(tmp_path: Path) -> None:
    first = upgrade("sqlite:///a.db", folder=tmp_path)
    assert upgrade("sqlite:///a.db", folder=tmp_path) == first == revisions()[-1]


def test_downgrading_what_is_not_there_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        downgrade("sqlite:///a.db", "base", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_commit_reaches_the_disk_and_keys_are_enforced(tmp_path: Path, unhurried: None) -> None:
    with open_store("sqlite:///a.db", folder=tmp_path, create=True) as store:
        for connect in (store.begin, store.read):
            with connect() as connection:
                pragmas = ("journal_mode", "synchronous", "foreign_keys")
                assert [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas] == ["wal", 2, 1]


def test_readers_do_not_wait_for_the_writer(tmp_path: Path) -> None:
    rows = sa.text("SELECT count(*) FROM system_events")
    event = sa.text(
        "INSERT INTO system_events (timestamp, level, event_type, message) VALUES ('2025-03-08', 'INFO', 'STARTUP', '')"
    )
    with open_store("sqlite:///a.db", folder=tmp_path, create=True) as store:
        with store.begin() as writer:
            writer.execute(event)
            with store.read() as reader:
                assert reader.execute(rows).scalar() == 0
        with store.read() as reader:
            assert reader.execute(rows).scalar() == 1


def test_a_second_writer_waits_for_the_first(tmp_path: Path) -> None:
    event = sa.text(
        "INSERT INTO system_events (timestamp, level, event_type, message) VALUES ('2025-03-08', 'INFO', 'STARTUP', '')"
    )
    order: list[str] = []
    with open_store("sqlite:///a.db", folder=tmp_path, create=True) as store:

        def second() -> None:
            with store.begin() as connection:
                order.append("second")
                connection.execute(event)

        with store.begin() as connection:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join(0.2)
            assert order == []
            connection.execute(event)
            order.append("first")
        thread.join(10)
    assert order == ["first", "second"]


def test_the_database_opens_without_alembic(tmp_path: Path) -> None:
    upgrade("sqlite:///a.db", folder=tmp_path)
    code = (
        "import sys; from autotrader.store.database import open_store\n"
        f"open_store('sqlite:///{tmp_path}/a.db').close(); print('alembic' in sys.modules, 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_package_carries_the_migrations_of_the_repository(root: Path) -> None:
    source = root / "migrations"
    names = [str(path.relative_to(source)) for path in source.rglob("*") if path.suffix in (".py", ".mako")]
    assert len(names) >= 3
    assert filecmp.cmpfiles(source, migrations(), names, shallow=False) == (names, [], [])


def test_a_description_shows_where_and_never_how() -> None:
    text = describe(resolve_url("postgresql://me:s3cret@db:5432/desk?sslpassword=s3cret"))
    assert text == "postgresql://me:***@db:5432/desk"


def test_what_fails_beside_the_database_keeps_its_name(tmp_path: Path) -> None:
    store = open_store("sqlite:///a.db", folder=tmp_path, create=True)
    with pytest.raises(ConnectionError, match="the venue is away"), store.begin():
        raise ConnectionError("the venue is away")
    store.close()
