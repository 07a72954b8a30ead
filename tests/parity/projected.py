"""The rows of a database held against what its journals give when they are projected again."""

from collections import Counter
from typing import Any

import sqlalchemy as sa

from autotrader.bots.projection import PROJECTED_NEWS, Row, balance_row, reproject
from autotrader.bots.replay import changes
from autotrader.core.market import Instrument
from autotrader.engine.events import EVENT, PARAMS, SCHEMA, STATE
from autotrader.store import journal
from autotrader.store.database import Store
from autotrader.store.tables import BotBalance, Decision, Fill, Order, SystemEvent, Trade

Rows = dict[Any, dict[str, Any]]
KEYS = {
    Decision: lambda row: row["bar_ms"],
    Order: lambda row: row["link_id"],
    Fill: lambda row: row["exec_id"],
    Trade: lambda row: row["order_id"],
}


def of_bot(table: type, bot: str) -> sa.ColumnElement[bool]:
    if table is Fill:
        return Fill.link_id.in_(sa.select(Order.link_id).where(Order.bot == bot))
    return (Trade.sub_bot_name if table is Trade else table.bot) == bot  # type: ignore[attr-defined]


def stored(store: Store, table: type, bot: str) -> Rows:
    with store.read() as connection:
        found = connection.execute(sa.select(table.__table__).where(of_bot(table, bot)))  # type: ignore[attr-defined]
        return {KEYS[table](row): dict(row) for row in found.mappings()}


def made(projected: list[Row], table: type) -> dict[Any, list[dict[str, Any]]]:
    rows: dict[Any, list[dict[str, Any]]] = {}
    for kind, _, row in projected:
        if kind is table:
            rows.setdefault(KEYS[table](row), []).append(row)
    return rows


def news(store: Store, bot: str) -> Counter:
    with store.read() as connection:
        found = connection.execute(sa.select(SystemEvent.__table__).where(SystemEvent.event_type.in_(PROJECTED_NEWS)))
        rows = [row for row in found if row.message.startswith(f"{bot} ")]
    return Counter(str((row.timestamp, row.level, row.event_type, row.message, row.details)) for row in rows)


def assert_rows_follow_from_the_journal(store: Store, bot: str, instrument: Instrument) -> Counter:
    "Every row of orders, fills, trades, decisions and news, column by column; returns how many there were of each."
    projected = reproject(store, bot, instrument=instrument)
    counts: Counter = Counter()
    for table in KEYS:
        there, here = stored(store, table, bot), made(projected, table)
        assert set(there) == set(here), f"{table.__name__}: {sorted(set(there) ^ set(here), key=str)[:5]}"
        for key, rows in here.items():
            # of two decisions on one bar the first is kept; of everything else the newest
            candidates = rows if table is Decision else rows[-1:]
            assert {name: there[key][name] for name in rows[-1]} in candidates, f"{table.__name__} {key}"
        counts[table.__name__] = len(here)
    told = Counter(
        str((row["timestamp"], row["level"], row["event_type"], row["message"], row["details"]))
        for kind, _, row in projected
        if kind is SystemEvent
    )
    assert told == news(store, bot)
    counts |= Counter(row["event_type"] for kind, _, row in projected if kind is SystemEvent)
    counts["balances"] = assert_balances_follow(store, bot, instrument)
    return counts


def assert_balances_follow(store: Store, bot: str, instrument: Instrument) -> int:
    "Each balance is that of a state which held at its moment, and they come in the order of the states."
    first = journal.load_state(store, bot, STATE, schema=SCHEMA, first=True)
    states = [first]
    for change in changes(first, journal.read(store, bot, EVENT), journal.load_params(store, bot, PARAMS)):
        states.append(change.after)
    with store.read() as connection:
        query = sa.select(BotBalance.__table__).where(BotBalance.bot == bot).order_by(BotBalance.ts_ms)
        rows = [dict(row) for row in connection.execute(query).mappings()]
    at = 0
    for row in rows:
        mark = int(instrument.ticks(row["mark_price"]))
        while at + 1 < len(states) and states[at + 1]["last_ms"][0] < row["ts_ms"]:
            at += 1
        while True:  # several events may bear the moment's stamp
            made = balance_row(bot, states[at], instrument=instrument, mark=mark, ts_ms=row["ts_ms"])
            if {name: row[name] for name in made} == made:
                break
            at += 1
            assert at < len(states) and states[at]["last_ms"][0] <= row["ts_ms"], f"balance of {row['ts_ms']}"
    return len(rows)
