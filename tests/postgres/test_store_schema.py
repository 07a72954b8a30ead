"""The schema: migrations and models are one, on both databases, and the blueprint's tables are as they were ordered."""

import shutil
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from autotrader.core.errors import StoreError
from autotrader.store.database import Store, downgrade, migrations, open_store, revision_of, revisions, upgrade
from autotrader.store.tables import ROUND_TRIPS, Base, DecimalText, ExactDecimal, Fill, Order, Trade, round_trips

BLUEPRINT = {
    "trades": "id:INTEGER timestamp:DATETIME sub_bot_name:VARCHAR symbol:VARCHAR order_id:VARCHAR side:VARCHAR price:DECIMAL "
    "quantity:DECIMAL fee:DECIMAL pnl:DECIMAL entry_reason:TEXT",
    "portfolio_history": "id:INTEGER timestamp:DATETIME total_balance_usdt:DECIMAL sub_bot_A_balance:DECIMAL "
    "sub_bot_B_balance:DECIMAL sub_bot_C_balance:DECIMAL profit_saved_balance:DECIMAL",
    "sentiment_scores": "id:INTEGER timestamp:DATETIME source:VARCHAR keyword:VARCHAR score:DECIMAL headline:TEXT",
    "system_events": "id:INTEGER timestamp:DATETIME level:VARCHAR event_type:VARCHAR message:TEXT details:JSON",
}
SAME_AS = {  # what each database calls the blueprint's types
    "DATETIME": {"DATETIME", "TIMESTAMP"},
    "DECIMAL": {"DECIMAL_TEXT", "NUMERIC"},
}


def declared_type(store: Store, table: str, column: str) -> str:
    with store.read() as connection:
        if connection.dialect.name == "sqlite":
            rows = connection.exec_driver_sql(f"PRAGMA table_info({table})").all()
            return next(str(row.type) for row in rows if row.name == column)
        return next(str(c["type"]) for c in sa.inspect(connection).get_columns(table) if c["name"] == column)


@pytest.mark.parametrize("table", BLUEPRINT)
def test_the_blueprints_tables_have_its_names_columns_and_types(store: Store, table: str) -> None:
    ordered = [column.split(":") for column in BLUEPRINT[table].split()]
    with store.read() as connection:
        found = [column["name"] for column in sa.inspect(connection).get_columns(table)]
        assert sa.inspect(connection).get_pk_constraint(table)["constrained_columns"] == ["id"]
    assert found == [name for name, _ in ordered]
    for name, kind in ordered:
        assert declared_type(store, table, name) in SAME_AS.get(kind, {kind})


def test_an_order_is_one_trade(store: Store) -> None:
    with pytest.raises(StoreError, match=r"(?i)unique"), store.session() as session:
        session.add_all([trade("same", 1), trade("same", 2)])
    with store.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(Trade)).scalar() == 0


def test_models_and_migrations_are_one(store: Store) -> None:
    def compare_type(_c: object, _i: object, _m: object, inspected: object, modelled: object) -> bool | None:
        return False if isinstance(modelled, ExactDecimal | DecimalText) and isinstance(inspected, sa.TEXT) else None

    with store.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": compare_type})
        assert compare_metadata(context, Base.metadata) == []
        checks = {
            (table.name, check["name"])
            for table in Base.metadata.sorted_tables
            for check in sa.inspect(connection).get_check_constraints(table.name)
        }
    modelled = {
        (table.name, str(constraint.name))
        for table in Base.metadata.sorted_tables
        for constraint in table.constraints
        if isinstance(constraint, sa.CheckConstraint)
    }
    assert checks == modelled


def test_the_view_and_its_model_are_one(store: Store) -> None:
    with store.begin() as connection:
        connection.exec_driver_sql(f"CREATE VIEW modelled AS {ROUND_TRIPS}")
        if connection.dialect.name == "sqlite":
            text = "SELECT sql FROM sqlite_master WHERE name = '{0}'"
        else:
            text = "SELECT pg_get_viewdef('{0}'::regclass)"
        stored, modelled = (
            connection.exec_driver_sql(text.format(name)).scalar_one() for name in ("round_trips", "modelled")
        )
        assert stored.replace("round_trips", "modelled") == modelled
        assert [c["name"] for c in sa.inspect(connection).get_columns("round_trips")] == list(
            round_trips.columns.keys()
        )
        connection.exec_driver_sql("DROP VIEW modelled")


def test_every_migration_goes_up_and_down(any_store_url: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations()))
    scripts = ScriptDirectory.from_config(config)
    assert [script.revision for script in reversed(list(scripts.walk_revisions()))] == revisions()
    upgrade(any_store_url)
    for revision in [*reversed(revisions()[:-1]), "base"]:
        downgrade(any_store_url, revision)
    engine = sa.create_engine(any_store_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        assert revision_of(connection) is None
        assert set(sa.inspect(connection).get_table_names()) <= {"alembic_version"}
        assert sa.inspect(connection).get_view_names() == []
    engine.dispose()
    upgrade(any_store_url)
    open_store(any_store_url).close()


def test_a_migration_that_fails_half_way_leaves_the_schema_as_it_was(
    any_store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = upgrade(any_store_url)
    shutil.copytree(migrations(), tmp_path / "migrations")
    (tmp_path / "migrations" / "versions" / "9000_broken.py").write_text(
        f"from alembic import op\nrevision, down_revision = '9000', '{before}'\n"
        "def upgrade():\n    op.execute('CREATE TABLE half (id INTEGER)')\n    op.execute('DROP TABLE missing')\n"
    )
    with monkeypatch.context() as patched:
        patched.setattr("autotrader.store.database.migrations", lambda: tmp_path / "migrations")
        with pytest.raises(StoreError, match="missing"):
            upgrade(any_store_url)
    with open_store(any_store_url) as store, store.read() as connection:
        assert revision_of(connection) == before
        assert not sa.inspect(connection).has_table("half")


def test_a_lost_connection_is_one_line_and_the_next_transaction_reconnects(postgres_url: str) -> None:
    with open_store(postgres_url, create=True) as store:
        with pytest.raises(StoreError, match="terminat") as caught, store.begin() as connection:
            end_all_connections(postgres_url)
            connection.execute(sa.select(Trade.id))
        assert "\n" not in str(caught.value)
        end_all_connections(postgres_url)
        with store.read() as connection:
            assert connection.execute(sa.select(Trade.id)).all() == []


def end_all_connections(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")  # type: ignore[arg-type]


def trade(
    order_id: str, hour: int, side: str = "BUY", price: str = "100", qty: str = "1", fee: str = "0", pnl: str = "0"
) -> Trade:
    return Trade(
        timestamp=datetime(2025, 3, 8, hour, tzinfo=UTC),
        sub_bot_name="sub_bot_A",
        symbol="BTCUSDT",
        order_id=order_id,
        side=side,
        price=Decimal(price),
        quantity=Decimal(qty),
        fee=Decimal(fee),
        pnl=Decimal(pnl),
    )


def order(link_id: str, trip: int, purpose: str, side: str = "BUY", qty: str = "1", bot: str = "sub_bot_A") -> Order:
    return Order(
        link_id=link_id,
        bot=bot,
        symbol="BTCUSDT",
        key=1,
        trip=trip,
        seq=1,
        purpose=purpose,
        kind="MARKET",
        side=side,
        qty=Decimal(qty),
        is_reduce_only=False,
        status="DONE",
        created_ms=0,
        updated_ms=0,
    )


def test_round_trips_add_up_the_orders_of_a_trip(store: Store) -> None:
    with store.session() as session:
        session.add_all(
            [
                order("a", 1, "ENTRY", "SELL"), trade("a", 1, "SELL", "60000.1", "0.003", "0.0990002", "0"),
                order("b", 1, "ADD", "SELL"), trade("b", 2, "SELL", "60100.3", "0.001", "0.0330552", "0"),
                order("c", 1, "STOP"), trade("c", 3, "BUY", "60500", "0.004", "0.1331", "-1.8994"),
                order("d", 2, "ENTRY"), trade("d", 4, "BUY", "60500", "0.004", "0.1331", "0"),
                order("e", 2, "ADD"),  # never executed
                order("f", 1, "ENTRY", bot="sub_bot_B"), trade("f", 5, "BUY", "1", "2", "0", "0"),
            ]
        )  # fmt: skip
    with store.read() as connection:
        found = connection.execute(sa.select(round_trips).order_by(round_trips.c.bot, round_trips.c.trip)).all()
    assert [(row.bot, row.trip, row.orders, row.side) for row in found] == [
        ("sub_bot_A", 1, 3, "SELL"),
        ("sub_bot_A", 2, 1, "BUY"),
        ("sub_bot_B", 1, 1, "BUY"),
    ]
    first, second, _ = found
    assert (first.entry_qty, first.exit_qty) == (Decimal("0.004"), Decimal("0.004"))
    assert (first.entry_price, first.exit_price) == (Decimal("60025.15"), Decimal("60500"))
    assert (first.fee, first.pnl) == (Decimal("0.2651554"), Decimal("-1.8994"))
    assert (first.opened, first.closed) == (datetime(2025, 3, 8, 1, tzinfo=UTC), datetime(2025, 3, 8, 3, tzinfo=UTC))
    assert (second.exit_qty, second.exit_price) == (Decimal(0), None)


def test_a_fill_needs_its_order(store: Store) -> None:
    fill = {"exec_id": "x", "link_id": "nobody", "ts_ms": 0, "price": 1, "qty": 1, "fee": 0, "is_maker": False}
    with pytest.raises(StoreError, match=r"(?i)foreign key"), store.begin() as connection:
        connection.execute(sa.insert(Fill), [fill])
