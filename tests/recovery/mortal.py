"""Bots on a paper venue that is written with their journal, in a process that may die at any moment. Run it again, and it goes on."""

import os
import signal
import sys
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "parity"))

import stage

from autotrader.bots.execution import key_of
from autotrader.bots.limits import Guard
from autotrader.bots.projection import balance_row
from autotrader.bots.subbot import Said, SubBot, close_bar, decide, listen, register, revive, tick
from autotrader.bots.writer import JournalWriter
from autotrader.config.sections import Risk
from autotrader.core.clock import SimulatedClock
from autotrader.core.market import from_e8
from autotrader.core.ports import Bar, OrderRequest
from autotrader.engine.events import SCHEMA, SLOTS, STATE, Status, new_state
from autotrader.engine.policy import PATIENCE_MS
from autotrader.engine.signals import Signals
from autotrader.exchange.account import Account, SymbolAccount
from autotrader.exchange.paper import PaperExchange
from autotrader.store import journal
from autotrader.store.control import fence, take_lease
from autotrader.store.database import Store, open_store
from autotrader.store.tables import BotBalance, PaperBook
from autotrader.strategy.setup import Part

FATES = 10  # processes that die by themselves


def parts(bars: int) -> list[Part]:
    "Three bots that say something at every third bar, drawn from a seed."
    rng, cast = np.random.default_rng(8), []
    for part in stage.parts(bars):
        n = len(part.bar_open_ms)
        says = rng.random(n) < 0.35
        signals = Signals(
            direction=np.where(says, rng.choice([-1, 1], n), 0).astype(np.int8),
            exits=np.where(rng.random(n) < 0.1, 3, 0).astype(np.int8),
            confidence=np.ones(n),
        )
        usual = part.instrument.price(int(np.mean(part.tape.high - part.tape.low)))
        cast.append(replace(part, signals=signals, atr=np.full(n, float(usual))))
    return cast


class Fate:
    "Every second process dies by itself, at a moment of one kind that is drawn for it; the others are killed from outside."

    KINDS = ("wished", "instant", "asked", "funded")

    def __init__(self, attempt: int) -> None:
        rng, number = np.random.default_rng(attempt), attempt // 2
        self.kind = self.KINDS[number % len(self.KINDS)] if attempt % 2 == 0 and number <= FATES else ""
        self.left = int(rng.integers(1, 3 if self.kind == "funded" else 12))

    def moment(self, kind: str) -> None:
        if kind != self.kind:
            return
        self.left -= 1
        if self.left == 0:
            os.write(1, f"died {kind}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


class MortalExchange(PaperExchange):
    "A process may die when it has written down what it wants, and when it has it and has heard nothing."

    def __init__(self, account: Account, *, clock: SimulatedClock, fate: Fate) -> None:
        super().__init__(account, clock=clock)
        self.fate = fate

    def submit(self, order: OrderRequest) -> None:
        self.fate.moment("wished")
        super().submit(order)
        self.fate.moment("asked")

    def cancel(self, symbol: str, link_id: str) -> None:
        self.fate.moment("wished")
        super().cancel(symbol, link_id)
        self.fate.moment("asked")

    def protect(self, symbol: str, *, stop: Decimal | None, target: Decimal | None) -> None:
        self.fate.moment("wished")
        super().protect(symbol, stop=stop, target=target)
        self.fate.moment("asked")


class Next(IntEnum):
    "What comes next in a bar."

    PLAY, TICK, CLOSE, DECIDE = range(4)


@dataclass(slots=True, eq=False, kw_only=True)
class Actor:
    "A bot with its venue, and how far it has come."

    part: Part
    bot: SubBot
    exchange: MortalExchange
    clock: SimulatedClock
    at: int = 0  # bar that is played
    next: Next = Next.PLAY
    mark: int = 0

    @property
    def book(self) -> SymbolAccount:
        return self.exchange.account.book(self.part.instrument.symbol)

    @property
    def venue(self) -> np.void:
        record: np.void = self.book.venue[0]
        return record

    def keep(self) -> list[tuple[type, Any, dict[str, Any]]]:
        "The row that is written with each commit."
        symbol = self.part.instrument.symbol
        row = {"bot": self.part.bot, "symbol": symbol, **self.exchange.save(symbol)}
        cursor = {"at": self.at, "next": int(self.next), "mark": self.mark}
        return [(PaperBook, self.part.bot, {**row, "cursor": cursor, "updated_ms": self.clock.now_ms()})]


def take_up(part: Part, store: Store, writer: JournalWriter, guard: Guard, fate: Fate) -> Actor:
    "Put a bot where the newest commit left it: the venue from its book, the bot from its journal."
    clock = SimulatedClock(int(part.tape.open_ms[0]))
    account = Account(wallet=from_e8(part.wallet_e8))
    account.list_symbol(part.instrument, part.costs)
    exchange = MortalExchange(account, clock=clock, fate=fate)
    first = journal.load_state(store, part.bot, STATE, schema=SCHEMA, first=True)
    if first is None:
        first = new_state(wallet_e8=part.wallet_e8, params_id=int(part.params["id"][0]))
        register(writer, part.bot, state=first, params=part.params)
    bot = SubBot(
        part.bot,
        instrument=part.instrument,
        state=first,
        params={int(part.params["id"][0]): part.params},
        venue=exchange,
        writer=writer,
        clock=clock,
        guard=guard,
    )
    revive(bot, store)
    actor = Actor(part=part, bot=bot, exchange=exchange, clock=clock)
    with store.read() as connection:
        columns = PaperBook.__table__.columns
        row = connection.execute(sa.select(*columns).where(PaperBook.bot == part.bot)).one_or_none()
    if row is not None:
        exchange.restore(part.instrument.symbol, row._mapping)
        clock.advance_to(row.updated_ms)
        actor.at, actor.next, actor.mark = row.cursor["at"], Next(row.cursor["next"]), row.cursor["mark"]
    writer.attend(actor.keep)
    hear(actor)
    agree(actor)
    return actor


def hear(actor: Actor) -> None:
    "Let the bot listen; what it was handed is noted then."
    listen(actor.bot)
    actor.exchange.settled()


def agree(actor: Actor) -> None:
    "A bot that has heard everything knows what the venue knows."
    state, venue = actor.bot.state[0], actor.venue
    for name in ("qty", "cost", "wallet_e8", "realised_e8", "fees_e8", "funding_e8"):
        assert state[name] == venue[name], f"{actor.part.bot}: {name} is {state[name]}, the venue has {venue[name]}"
    live = {int(slot["key"]) for slot in state["orders"][:SLOTS] if slot["status"] == Status.LIVE}
    resting = {key_of(actor.part.bot, link) for link in actor.book.keys}
    assert live <= resting, f"{actor.part.bot}: orders {live - resting} do not rest on the venue"


def bar_of(part: Part, i: int) -> Bar:
    tape = part.tape
    open_ms = int(tape.open_ms[i])
    due = np.flatnonzero((tape.funding_ms > open_ms) & (tape.funding_ms <= open_ms + tape.bar_ms))
    marks = {"mark_high": int(tape.mark_high[i]), "mark_low": int(tape.mark_low[i])} if len(tape.mark_high) else {}
    prices = {name: int(getattr(tape, name)[i]) for name in ("open", "high", "low", "close", "volume")}
    return Bar(
        open_ms=open_ms,
        close_ms=open_ms + tape.bar_ms,
        funding=tuple((int(tape.funding_ms[k]), float(tape.funding_rate[k])) for k in due),
        **{"mark_high": 0, "mark_low": 0, **prices, **marks},  # type: ignore[arg-type]
    )


def play(actor: Actor, bar: Bar, writer: JournalWriter) -> None:
    "The venue's side of a bar; the venue's record knows whether it was begun and which instants are over."
    symbol = actor.part.instrument.symbol
    if actor.venue["open_ms"] != bar.open_ms:
        actor.exchange.open_bar(symbol, bar)
    while actor.exchange.play(symbol):
        if actor.at % 2:
            writer.commit(force=True)  # what just happened was not heard yet
            actor.exchange.fate.moment("instant")
        hear(actor)
        if not actor.at % 2:
            writer.commit(force=True)  # an instant is over, the bar is not
            actor.exchange.fate.moment("instant")
    actor.clock.advance_to(max(actor.clock.now_ms(), bar.close_ms))
    actor.mark = bar.close
    for ts_ms, rate in bar.funding:
        actor.exchange.fund(symbol, mark=actor.mark, rate=rate, ts_ms=ts_ms)
        if actor.venue["qty"]:
            writer.commit(force=True)
            actor.exchange.fate.moment("funded")
    hear(actor)


def live(actor: Actor, writer: JournalWriter) -> None:
    "One bar, or what is left of it; the cursor is moved before each part, whose first commit has something of the part in it."
    part, i = actor.part, actor.at
    bar, b = bar_of(part, i), int(part.tape.bot_bar[i]) if len(part.tape.bot_bar) else i
    if actor.next == Next.PLAY:
        play(actor, bar, writer)
        actor.next = Next.TICK
    if actor.next == Next.TICK:
        actor.next = Next.CLOSE
        tick(actor.bot, bar.close)
    if b >= 0 and actor.next == Next.CLOSE:
        actor.next = Next.DECIDE
        close_bar(actor.bot, int(part.tape.bot_close[b]), atr=float(part.atr[b]))
    actor.at, actor.next = i + 1, Next.PLAY
    if b >= 0:
        decide(
            actor.bot,
            Said(
                bar_ms=int(part.bar_open_ms[b]),
                known_ms=bar.close_ms,
                direction=int(part.signals.direction[b]),
                exits=int(part.signals.exits[b]),
                confidence=1.0,
                strategy="drawn",
            ),
        )
    actor.exchange.settled()
    row = balance_row(part.bot, actor.bot.state, instrument=part.instrument, mark=actor.mark, ts_ms=bar.close_ms)
    writer.row(BotBalance, (part.bot, bar.close_ms), row)


def trade(cast: list[Part], url: str, attempt: int) -> None:
    "Trade to the end of the tape, from wherever the process before had come to."
    with open_store(url) as store:
        lease = take_lease(
            store, "runner", holder=f"attempt {attempt}", clock=SimulatedClock(attempt * 100_000), ttl_ms=50_000
        )
        assert lease is not None
        writer, guard = JournalWriter(store, fence=lambda connection: fence(connection, lease)), Guard(Risk())
        actors = [take_up(part, store, writer, guard, Fate(attempt)) for part in cast]
        middle = sum(
            a.at < len(a.part.tape.open_ms) and a.venue["open_ms"] == a.part.tape.open_ms[a.at] for a in actors
        )
        os.write(1, f"begun {middle}\n".encode())
        while acting := [a for a in actors if a.at < len(a.part.tape.open_ms)]:
            actor = min(acting, key=lambda a: int(a.part.tape.open_ms[a.at]))
            live(actor, writer)
            if actor.at % 8 == 0:
                writer.commit()
            os.write(1, b"bar\n")
        for actor in actors:
            for _ in range(4):  # what is open is asked about
                actor.clock.advance_to(actor.clock.now_ms() + PATIENCE_MS)
                tick(actor.bot, actor.mark)
                hear(actor)
            agree(actor)
        writer.commit(force=True)


def main(url: str, bars: int) -> int:
    "Let one process after the other trade, until one comes to the end."
    cast, attempt, status = parts(bars), 0, -1
    while status != 0:
        attempt += 1
        child = os.fork()  # everything is imported already: what dies is a process of its own all the same
        if child == 0:
            os.write(1, f"process {os.getpid()}\n".encode())
            trade(cast, url, attempt)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) and status != 0:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
