"""On the roughest line no position stays without a stop for longer than news can be late and the policy tries."""

from pathlib import Path

import pytest
import stage
from series import length
from test_decision_parity import HARD

from autotrader.engine.policy import PATIENCE_MS, PROTECT_TRIES
from autotrader.exchange.paper import RoughExchange
from autotrader.runner import rehearsal
from autotrader.runner.rehearsal import RehearsedBot
from autotrader.store.database import open_store


def test_nothing_on_the_line_outlasts_a_bots_patience() -> None:
    assert HARD.longest_ms < PATIENCE_MS


@pytest.mark.parametrize("seed", range(11, 11 + length(2, soak=20)))
def test_a_position_without_a_stop_is_known_and_being_dealt_with(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[tuple[str, int]] = []
    naked: dict[str, int] = {}  # bars in a row without stop and not on the way out
    held = longest = 0

    def watch(actor: RehearsedBot) -> None:
        nonlocal held, longest
        session, bot = actor.session, actor.part.bot
        state, venue = session.bot.state[0], session.market.audit(session.symbol)[0]
        assert isinstance(session.venue, RoughExchange)
        is_on_its_way = session.venue.line.due_ms is not None
        assert state["qty"] == venue["qty"] or is_on_its_way, "books differ, and no news is on the way"
        held += bool(venue["qty"])
        is_naked = bool(venue["qty"] and not venue["stop"])
        is_known = bool(state["exiting"] or state["have_stop"] != state["want_stop"])
        if is_naked and not (is_known or is_on_its_way):
            forgotten.append((bot, actor.feed.at))
        naked[bot] = naked.get(bot, 0) + 1 if is_naked and not state["exiting"] else 0
        longest = max(longest, naked[bot])
        count(actor)

    count = rehearsal.count
    monkeypatch.setattr(rehearsal, "count", watch)
    with open_store("sqlite:///rough.db", folder=tmp_path, create=True) as store:
        rehearsal.rehearse(stage.parts(600), store, rough=seed, roughness=HARD)
    assert held > 100
    assert forgotten == []
    assert longest <= PROTECT_TRIES
