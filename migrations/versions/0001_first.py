"""The schema the house opens with.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

from autotrader.store.tables import DecimalText

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MONEY = sa.Numeric().with_variant(DecimalText(), "sqlite")
STAMP = sa.DateTime(timezone=True)
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
BLOBS = ("open_ms", "open", "high", "low", "close", "volume")
TABLES = (
    "fills",
    "trades",
    "system_events",
    "sentiment_scores",
    "portfolio_history",
    "policy_state",
    "policy_params",
    "orders",
    "open_interest",
    "intents",
    "instruments",
    "funding_rates",
    "events",
    "decisions",
    "candles",
    "bot_balances",
)

ROUND_TRIPS = """
SELECT o.bot AS bot,
       o.trip AS trip,
       MIN(t.symbol) AS symbol,
       MIN(CASE WHEN o.purpose IN ('ENTRY', 'ADD') THEN t.side END) AS side,
       MIN(t.timestamp) AS opened,
       MAX(t.timestamp) AS closed,
       COUNT(*) AS orders,
       ROUND(SUM(CASE WHEN o.purpose IN ('ENTRY', 'ADD') THEN CAST(t.quantity AS NUMERIC) ELSE 0 END), 8) AS entry_qty,
       ROUND(SUM(CASE WHEN o.purpose IN ('ENTRY', 'ADD') THEN 0 ELSE CAST(t.quantity AS NUMERIC) END), 8) AS exit_qty,
       ROUND(SUM(CASE WHEN o.purpose IN ('ENTRY', 'ADD') THEN CAST(t.price AS NUMERIC) * CAST(t.quantity AS NUMERIC) END)
             / SUM(CASE WHEN o.purpose IN ('ENTRY', 'ADD') THEN CAST(t.quantity AS NUMERIC) END), 8) AS entry_price,
       ROUND(SUM(CASE WHEN o.purpose NOT IN ('ENTRY', 'ADD') THEN CAST(t.price AS NUMERIC) * CAST(t.quantity AS NUMERIC) END)
             / SUM(CASE WHEN o.purpose NOT IN ('ENTRY', 'ADD') THEN CAST(t.quantity AS NUMERIC) END), 8) AS exit_price,
       ROUND(SUM(CAST(t.fee AS NUMERIC)), 8) AS fee,
       ROUND(SUM(CAST(t.pnl AS NUMERIC)), 8) AS pnl
FROM orders o
JOIN trades t ON t.order_id = o.link_id
GROUP BY o.bot, o.trip
"""


def upgrade() -> None:
    op.create_table(
        "bot_balances",
        sa.Column("bot", sa.String(), nullable=False),
        sa.Column("ts_ms", sa.BigInteger(), nullable=False),
        sa.Column("wallet_usdt", MONEY, nullable=False),
        sa.Column("equity_usdt", MONEY, nullable=False),
        sa.Column("position_qty", MONEY, nullable=False),
        sa.Column("mark_price", MONEY, nullable=False),
        sa.Column("realised_usdt", MONEY, nullable=False),
        sa.Column("fees_usdt", MONEY, nullable=False),
        sa.Column("funding_usdt", MONEY, nullable=False),
        sa.PrimaryKeyConstraint("bot", "ts_ms", name="pk_bot_balances"),
    )
    op.create_table(
        "candles",
        sa.Column("venue", sa.String(), nullable=False),
        sa.Column("symbol", sa.String(), nullable=False),
        sa.Column("timeframe", sa.String(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("bars", sa.Integer(), nullable=False),
        sa.Column("first_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_ms", sa.BigInteger(), nullable=False),
        sa.Column("open_ms", sa.LargeBinary(), nullable=False),
        sa.Column("open", sa.LargeBinary(), nullable=False),
        sa.Column("high", sa.LargeBinary(), nullable=False),
        sa.Column("low", sa.LargeBinary(), nullable=False),
        sa.Column("close", sa.LargeBinary(), nullable=False),
        sa.Column("volume", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("venue", "symbol", "timeframe", "day", name="pk_candles"),
    )
    op.create_table(
        "decisions",
        sa.Column("bot", sa.String(), nullable=False),
        sa.Column("bar_ms", sa.BigInteger(), nullable=False),
        sa.Column("known_ms", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("strategy", sa.String(), nullable=False),
        sa.Column("direction", sa.Integer(), nullable=False),
        sa.Column("exits", sa.Integer(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("indicators", sa.JSON(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("bot", "bar_ms", name="pk_decisions"),
    )
    op.create_table(
        "events",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("bot", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("ts_ms", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sa.UniqueConstraint("bot", "seq", name="uq_events_bot_seq"),
    )
    op.create_table(
        "funding_rates",
        sa.Column("venue", sa.String(), nullable=False),
        sa.Column("symbol", sa.String(), nullable=False),
        sa.Column("ts_ms", sa.BigInteger(), nullable=False),
        sa.Column("rate", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("venue", "symbol", "ts_ms", name="pk_funding_rates"),
    )
    op.create_table(
        "instruments",
        sa.Column("venue", sa.String(), nullable=False),
        sa.Column("symbol", sa.String(), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("tick_size", MONEY, nullable=False),
        sa.Column("qty_step", MONEY, nullable=False),
        sa.Column("min_qty", MONEY, nullable=False),
        sa.Column("max_qty", MONEY, nullable=False),
        sa.Column("max_market_qty", MONEY, nullable=False),
        sa.Column("min_notional", MONEY, nullable=False),
        sa.Column("maker_fee", MONEY, nullable=False),
        sa.Column("taker_fee", MONEY, nullable=False),
        sa.Column("max_leverage", MONEY, nullable=False),
        sa.Column("maintenance_margin", MONEY, nullable=False),
        sa.Column("funding_interval_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("venue", "symbol", "since_ms", name="pk_instruments"),
    )
    op.create_table(
        "intents",
        sa.Column("bot", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("bot", "seq", "number", name="pk_intents"),
    )
    op.create_table(
        "open_interest",
        sa.Column("venue", sa.String(), nullable=False),
        sa.Column("symbol", sa.String(), nullable=False),
        sa.Column("ts_ms", sa.BigInteger(), nullable=False),
        sa.Column("known_ms", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("venue", "symbol", "ts_ms", name="pk_open_interest"),
    )
    op.create_table(
        "orders",
        sa.Column("link_id", sa.String(), nullable=False),
        sa.Column("venue_id", sa.String(), nullable=True),
        sa.Column("bot", sa.String(), nullable=False),
        sa.Column("symbol", sa.String(), nullable=False),
        sa.Column("key", sa.BigInteger(), nullable=False),
        sa.Column("trip", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("side", sa.String(), nullable=False),
        sa.Column("price", MONEY, nullable=True),
        sa.Column("qty", MONEY, nullable=False),
        sa.Column("is_reduce_only", sa.Boolean(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("link_id", name="pk_orders"),
    )
    op.create_index("ix_orders_bot_trip", "orders", ["bot", "trip"])
    op.create_index("ix_orders_status", "orders", ["status"])

    op.create_table(
        "policy_params",
        sa.Column("bot", sa.String(), nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("readable", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("bot", "id", name="pk_policy_params"),
    )
    op.create_table(
        "policy_state",
        sa.Column("bot", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("schema", sa.Integer(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("readable", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("bot", "seq", name="pk_policy_state"),
    )
    op.create_table(
        "portfolio_history",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("timestamp", STAMP, nullable=False),
        sa.Column("total_balance_usdt", MONEY, nullable=False),
        sa.Column("sub_bot_A_balance", MONEY, nullable=True),
        sa.Column("sub_bot_B_balance", MONEY, nullable=True),
        sa.Column("sub_bot_C_balance", MONEY, nullable=True),
        sa.Column("profit_saved_balance", MONEY, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_portfolio_history"),
    )
    op.create_index("ix_portfolio_history_timestamp", "portfolio_history", ["timestamp"])

    op.create_table(
        "sentiment_scores",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("timestamp", STAMP, nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("keyword", sa.String(), nullable=False),
        sa.Column("score", MONEY, nullable=False),
        sa.Column("headline", sa.Text(), nullable=False),
        sa.CheckConstraint("CAST(score AS REAL) BETWEEN -1 AND 1", name=op.f("ck_sentiment_scores_score")),
        sa.PrimaryKeyConstraint("id", name="pk_sentiment_scores"),
    )
    op.create_index("ix_sentiment_scores_timestamp", "sentiment_scores", ["timestamp"])

    op.create_table(
        "system_events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("timestamp", STAMP, nullable=False),
        sa.Column("level", sa.String(), nullable=False),
        sa.Column("event_type", sa.String(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=True),
        sa.CheckConstraint("level IN ('INFO', 'WARNING', 'ERROR', 'CRITICAL')", name=op.f("ck_system_events_level")),
        sa.PrimaryKeyConstraint("id", name="pk_system_events"),
    )
    op.create_index("ix_system_events_timestamp", "system_events", ["timestamp"])

    op.create_table(
        "trades",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("timestamp", STAMP, nullable=False),
        sa.Column("sub_bot_name", sa.String(), nullable=False),
        sa.Column("symbol", sa.String(), nullable=False),
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("side", sa.String(), nullable=False),
        sa.Column("price", MONEY, nullable=False),
        sa.Column("quantity", MONEY, nullable=False),
        sa.Column("fee", MONEY, nullable=False),
        sa.Column("pnl", MONEY, nullable=False),
        sa.Column("entry_reason", sa.Text(), nullable=True),
        sa.CheckConstraint("side IN ('BUY', 'SELL')", name=op.f("ck_trades_side")),
        sa.PrimaryKeyConstraint("id", name="pk_trades"),
        sa.UniqueConstraint("order_id", name="uq_trades_order_id"),
    )
    op.create_index("ix_trades_sub_bot_name_timestamp", "trades", ["sub_bot_name", "timestamp"])
    op.create_index("ix_trades_timestamp", "trades", ["timestamp"])

    op.create_table(
        "fills",
        sa.Column("exec_id", sa.String(), nullable=False),
        sa.Column("link_id", sa.String(), nullable=False),
        sa.Column("ts_ms", sa.BigInteger(), nullable=False),
        sa.Column("price", MONEY, nullable=False),
        sa.Column("qty", MONEY, nullable=False),
        sa.Column("fee", MONEY, nullable=False),
        sa.Column("is_maker", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["link_id"], ["orders.link_id"], name="fk_fills_link_id"),
        sa.PrimaryKeyConstraint("exec_id", name="pk_fills"),
    )
    op.create_index("ix_fills_link_id", "fills", ["link_id"])
    op.create_index("ix_fills_ts_ms", "fills", ["ts_ms"])

    if op.get_bind().dialect.name == "postgresql":  # prices hardly compress, and unpacking costs more than reading
        for column in BLOBS:
            op.execute(f"ALTER TABLE candles ALTER COLUMN {column} SET STORAGE EXTERNAL")
    op.execute(f"CREATE VIEW round_trips AS {ROUND_TRIPS}")


def downgrade() -> None:
    op.execute("DROP VIEW round_trips")
    for table in TABLES:
        op.drop_table(table)
