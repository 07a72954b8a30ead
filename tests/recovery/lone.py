"""One bot on one paper account, whose reports can be held back and whose venue can be tampered with."""

from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count

import numpy as np

from autotrader.bots.limits import Guard
from autotrader.bots.subbot import Said, SubBot, close_bar, decide, listen, register, revive, tick
from autotrader.bots.writer import JournalWriter
from autotrader.config.sections import Risk
from autotrader.core.clock import SimulatedClock
from autotrader.core.market import to_e8
from autotrader.core.ports import Bar, OrderRequest, OrderType, OrderUpdate, Side, Snapshot, Update
from autotrader.data.instruments import KNOWN
from autotrader.engine.events import PARAMS, SCHEMA, STATE, Exit, Sizing, Split, new_state
from autotrader.engine.fills import new_costs
from autotrader.exchange import account as desk
from autotrader.exchange.account import Account
from autotrader.exchange.paper import PaperExchange, RoughExchange, Roughness
from autotrader.store import journal
from autotrader.store.database import Store

BTC = KNOWN[("bybit", "BTCUSDT")]
SYMBOL = BTC.symbol
MINUTE = 60_000
WALLET = 10_000
LOOSE = Risk(
    max_order_notional_usdt=1e9,
    max_bot_notional_usdt=1e9,
    max_total_notional_usdt=1e9,
    max_leverage=100,
    max_orders_per_minute=1_000,
    max_daily_loss=0.99,
)
_numbers = count(1)


class Line:
    "The way to an exchange; while it is deaf, reports wait on it and requests do not."

    def __init__(self, inner: PaperExchange | RoughExchange) -> None:
        self.inner = inner
        self.is_deaf = False
        self.late: list[Update] = []
        self.protects = 0
        self._arrived: list[Update] = []

    def submit(self, order: OrderRequest) -> None:
        self.inner.submit(order)

    def cancel(self, symbol: str, link_id: str) -> None:
        self.inner.cancel(symbol, link_id)

    def protect(self, symbol: str, *, stop: Decimal | None, target: Decimal | None) -> None:
        self.protects += 1
        self.inner.protect(symbol, stop=stop, target=target)

    def find(self, symbol: str, link_id: str) -> OrderUpdate | None:
        return self.inner.find(symbol, link_id)

    def snapshot(self, symbol: str) -> Snapshot:
        return self.inner.snapshot(symbol)

    def updates(self) -> list[Update]:
        heard = self._arrived + self.inner.updates()
        self._arrived = []
        if self.is_deaf:
            self.late += heard
            return []
        return heard

    def deliver(self, rng: np.random.Generator) -> None:
        "What waited comes after all: each twice, in any order."
        waiting = self.late * 2
        self._arrived += [waiting[i] for i in rng.permutation(len(waiting))]
        self.late = []


def parameters(**changes: float) -> np.ndarray:
    params = np.zeros(1, PARAMS)
    plain = {
        "tick": 0.1,
        "step": 0.001,
        "unit_e8": BTC.rules.unit_e8,
        "min_qty": 1,
        "max_qty": 10**6,
        "min_notional_e8": 5 * 10**8,
        "sizing": Sizing.EQUITY_FRAC,
        "size": 0.5,
        "max_leverage": 3.0,
        "split_count": 1,
        "sl_ratio": 2.0,
        "tp_ratio": 1.5,
        "allow_long": 1,
        "allow_short": 1,
        "exit_on_opposite": 1,
        "max_signal_age_ms": 300_000,
        "resume_size": 1.0,
    }
    for name, value in {**plain, **changes}.items():
        params[name] = value
    return params


SPLIT = {"split": Split.PRICE, "split_count": 3, "split_gap": 0.001, "split_expiry_ms": 60 * MINUTE}


@dataclass(slots=True, eq=False)
class Lone:
    store: Store
    rough: np.random.Generator | None = None
    roughness: Roughness = field(default_factory=Roughness)
    params: dict[str, float] = field(default_factory=dict)
    atr: float = 300.0
    price: int = 600_000
    name: str = field(init=False)
    clock: SimulatedClock = field(init=False)
    paper: PaperExchange = field(init=False)
    line: Line = field(init=False)
    bot: SubBot = field(init=False)
    _hands: int = 0

    def __post_init__(self) -> None:
        self.name = f"b{next(_numbers)}"
        self.clock = SimulatedClock(0)
        account = Account(wallet=Decimal(WALLET))
        account.list_symbol(BTC, new_costs(BTC, slippage_bps=1.0))
        self.paper = PaperExchange(account, clock=self.clock)
        rough = self.rough and RoughExchange(self.paper, rng=self.rough, roughness=self.roughness)
        self.line = Line(rough or self.paper)
        state = new_state(wallet_e8=WALLET * 10**8)
        self.bot = self._new_bot(state)
        register(self.bot.writer, self.name, state=state.copy(), params=parameters(**self.params))

    def _new_bot(self, state: np.ndarray) -> SubBot:
        return SubBot(
            self.name,
            instrument=BTC,
            state=state,
            params={0: parameters(**self.params)},
            venue=self.line,
            writer=JournalWriter(self.store),
            clock=self.clock,
            guard=Guard(LOOSE),
        )

    def restart(self) -> None:
        "The process dies after a commit, and a new one takes its place."
        self.bot.writer.commit()
        first = journal.load_state(self.store, self.name, STATE, schema=SCHEMA, first=True)
        assert first is not None
        old, self.bot = self.bot, self._new_bot(first.copy())
        revive(self.bot, self.store)
        assert self.bot.state.tobytes() == old.state.tobytes()

    def play(self, low: int = 0, high: int = 0, close: int = 0, *, is_watching: bool = True) -> None:
        "A minute from the price now; without arguments at that price. A bot that does not watch sees no clock and no close."
        at, open_, close = self.clock.now_ms(), self.price, close or self.price
        bar = Bar(
            open_ms=at,
            close_ms=at + MINUTE,
            open=open_,
            high=max(high, open_, close),
            low=min(low or open_, open_, close),
            close=close,
            volume=10**9,
            mark_high=0,
            mark_low=0,
        )
        self.line.inner.open_bar(SYMBOL, bar)
        while self.line.inner.play(SYMBOL):
            listen(self.bot)
        self.clock.advance_to(max(self.clock.now_ms(), bar.close_ms))
        self.price = close
        listen(self.bot)
        if not is_watching:
            return
        tick(self.bot, close)
        close_bar(self.bot, close, atr=self.atr)

    def say(self, direction: int, exits: int = Exit.NONE) -> None:
        now = self.clock.now_ms()
        said = Said(bar_ms=now, known_ms=now, direction=direction, exits=exits, confidence=1.0, strategy="ema_trend")
        decide(self.bot, said)

    def enter(self, direction: int = 1) -> None:
        "A minute for an ATR, a signal, a minute to fill it."
        self.play()
        self.say(direction)
        self.play()
        assert self.bot.state["qty"][0]

    def trade(self, steps: int, *, is_reduce: bool = False) -> None:
        "Somebody trades by hand; it fills at the next open."
        self._hands += 1
        side = Side.BUY if steps > 0 else Side.SELL
        order = OrderRequest(
            link_id=f"hand-{self._hands}",
            symbol=SYMBOL,
            side=side,
            type=OrderType.MARKET,
            qty=BTC.qty(abs(steps)),
            reduce_only=is_reduce,
        )
        desk.place(self.paper.account, order, ts_ms=self.paper.now_ms())

    def rest(self, link: str, *, price: int = 100_000) -> None:
        "Somebody leaves an order to buy, far below the price unless it is said where."
        order = OrderRequest(
            link_id=link,
            symbol=SYMBOL,
            side=Side.BUY,
            type=OrderType.LIMIT,
            qty=BTC.qty(1),
            price=BTC.price(price),
        )
        desk.place(self.paper.account, order, ts_ms=self.paper.now_ms())

    def leave(self, *, price: int = 100_000) -> None:
        "An order that the bot has given up rests after all."
        self._hands += 1
        self.rest(f"{self.name}-1-{1_000 + self._hands}-0", price=price)

    def drop(self) -> int:
        "The venue drops every resting order of the bot and says nothing; returns how many."
        mine = [order.link_id for order in self.snapshot.orders if order.link_id.startswith(f"{self.name}-")]
        for link in mine:
            desk.cancel(self.paper.account, SYMBOL, link, ts_ms=self.paper.now_ms())
        return len(mine)

    def guard_by_hand(self, *, stop: int, target: int) -> None:
        "Somebody sets stop and target; the venue says nothing."
        levels = {"stop": BTC.price(stop) if stop else None, "target": BTC.price(target) if target else None}
        desk.protect(self.paper.account, SYMBOL, ts_ms=self.paper.now_ms(), **levels)

    @property
    def snapshot(self) -> Snapshot:
        return self.paper.snapshot(SYMBOL)

    @property
    def believed(self) -> tuple[int, int, int]:
        "Quantity, cost and wallet, as the bot has them."
        now = self.bot.state[0]
        return int(now["qty"]), int(now["cost"]), int(now["wallet_e8"])

    @property
    def real(self) -> tuple[int, int, int]:
        "And as the venue has them."
        has = self.snapshot
        return BTC.steps(has.qty), BTC.cost(has.value), to_e8(has.wallet)

    @property
    def stop(self) -> int:
        stop = self.snapshot.stop
        return 0 if stop is None else BTC.ticks(stop)
