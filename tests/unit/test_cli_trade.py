"""backtest, rehearse, quickstart and explain, on the embedded sample in folders of their own."""

import csv
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from shared import once, run

from autotrader.config.settings import load
from autotrader.data.sample import eurusd
from autotrader.desk.supply import or_sample
from autotrader.store.candles import save
from autotrader.store.database import open_store

COLUMNS = ["time", "bot", "symbol", "side", "price", "quantity", "fee", "pnl", "reason", "order_id"]
BOTS = ["sub_bot_A", "sub_bot_B", "sub_bot_C"]
MONTH = ("--from", "2017-06-01", "--to", "2017-07-01")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    "A folder that was empty before `quickstart`, and what that said."
    return once(tmp_path_factory, "quickstarted", lambda folder: run(folder, "quickstart", "--no-serve", "--json").told)


@pytest.fixture
def desk(started: tuple[Path, Any], tmp_path: Path) -> Path:
    shutil.copytree(started[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == COLUMNS
        return list(reader)


@pytest.mark.parametrize("file", ["config.toml", "prices.db"])
def test_fills_are_written_over_nothing_but_fills(desk: Path, file: str) -> None:
    (desk / "prices.db").write_bytes(b"SQLite format 3")
    before = (desk / file).read_bytes()
    refused = run(desk, "backtest", "--trades", file)
    assert refused.code == 2 and "is there and no table of fills: choose another name" in refused.err
    assert (desk / file).read_bytes() == before
    for _ in range(2):
        assert run(desk, "backtest", "--trades", "fills.csv").code == 0


def test_quickstart_makes_an_empty_folder_a_desk_and_trades_the_sample(started: tuple[Path, Any]) -> None:
    folder, told = started
    assert list(told) == ["data", "training", "backtest", "rehearsal"]
    (model,) = told["training"]
    assert model["verdict"][0].startswith("The model is ") and (model["model"], model["title"]) == (
        1,
        "sample EURUSD 1h",
    )
    assert len(list((folder / "models").glob("*.joblib"))) == 1
    assert told["data"]["source"] == "sample"
    assert "AUTOTRADER_OFFLINE" in told["data"]["why"]
    for part in ("backtest", "rehearsal"):
        assert [bot["id"] for bot in told[part]["bots"]] == BOTS
        assert all(bot["trades"] >= 1 for bot in told[part]["bots"])
        assert any("EUR/USD" in note for note in told[part]["notes"])
    assert sorted(path.name for path in (folder / "data").iterdir()) == ["rehearsal.db", "sample.db"]


def test_a_smooth_rehearsal_is_the_backtest_and_its_journal_gives_it_again(started: tuple[Path, Any]) -> None:
    told = started[1]
    assert told["rehearsal"]["bots"] == told["backtest"]["bots"]
    assert list(told["rehearsal"]["parity"]) == BOTS
    for found in told["rehearsal"]["parity"].values():
        assert found["decision"]["exact"] and found["decision"]["events"] > 1000
        assert found["model"]["equal"] and found["model"]["total"] == 0


def test_quickstart_leaves_a_configuration_as_it_is(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for bot in ("SUB_BOT_B", "SUB_BOT_C"):
        monkeypatch.setenv(f"AUTOTRADER__SUB_BOTS__{bot}__ENABLED", "false")
    config = desk / "config.toml"
    config.write_text(config.read_text() + "\n# mine\n")
    before = config.read_bytes()
    ended = run(desk, "quickstart", "--no-serve")
    assert ended.code == 0, ended.err
    assert config.read_bytes() == before
    assert "sub_bot_A" in ended.out and "sub_bot_B" not in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80


def test_a_clone_without_its_markets_plays_the_sample_in_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bot in ("SUB_BOT_A", "SUB_BOT_B"):
        monkeypatch.setenv(f"AUTOTRADER__SUB_BOTS__{bot}__ENABLED", "false")
    assert run(tmp_path, "init").code == 0
    before = sorted(tmp_path.rglob("*"))
    config = (tmp_path / "config.toml").read_bytes()
    found = run(tmp_path, "quickstart", "--sample-in", "desk", "--no-serve", "--json").told
    assert found["data"]["source"] == "sample" and found["data"]["config"] == "desk/config.toml"
    assert found["data"]["why"] == (
        "config.toml trades bybit SOLUSDT, which cannot be had here (AUTOTRADER_OFFLINE is set): "
        "so the embedded EUR/USD sample plays in desk/, a desk of its own"
    )
    assert (tmp_path / "config.toml").read_bytes() == config
    desk = tmp_path / "desk"
    assert [path for path in sorted(tmp_path.rglob("*")) if not path.is_relative_to(desk)] == before
    assert run(desk, "backtest", "--bot", "sub_bot_C", "--json").code == 0


def test_a_clone_that_has_its_markets_trades_them(tmp_path: Path) -> None:
    assert run(tmp_path, "init").code == 0
    settings = load(tmp_path / "config.toml")
    with open_store(settings.database_url, folder=tmp_path, create=True) as store:
        for bot in settings.sub_bots:
            save(store, replace(eurusd(), venue=bot.venue, symbol=bot.symbol))
    found, written, why = or_sample(settings, tmp_path / "desk", "AUTOTRADER_OFFLINE is set")
    assert (found, written, why) == (settings, [], None) and not (tmp_path / "desk").exists()


def test_quickstart_says_which_bots_lack_data_and_writes_nothing_of_its_own(tmp_path: Path) -> None:
    assert run(tmp_path, "init").code == 0
    before = (tmp_path / "config.toml").read_bytes()
    ended = run(tmp_path, "quickstart", "--no-serve")
    assert (ended.code, ended.out) == (2, "")
    assert "sub_bot_A (bybit BTCUSDT 1h)" in ended.err and "--data" in ended.err
    assert ended.err.count("\n") == 1
    assert (tmp_path / "config.toml").read_bytes() == before
    assert not (tmp_path / "data" / "rehearsal.db").exists()


def test_a_backtest_tells_each_bot_and_all_together(desk: Path) -> None:
    told = run(desk, "backtest", "--json").told
    assert [bot["id"] for bot in told["bots"]] == BOTS
    for name in ("trades", "return", "sharpe", "max_drawdown", "fees", "funding", "pnl", "market"):
        assert all(isinstance(bot[name], int | float) for bot in told["bots"]), name
    for name in ("pnl", "fees", "funding", "trades"):
        assert told["portfolio"][name] == pytest.approx(sum(bot[name] for bot in told["bots"]))
    assert told["portfolio"]["return"] == pytest.approx(told["portfolio"]["pnl"] / 30_000)


def test_a_backtest_for_people_begins_with_the_verdict_and_fits_a_terminal(desk: Path) -> None:
    ended = run(desk, "backtest", "--bot", "SubBot-A", *MONTH)
    lines = ended.out.splitlines()
    assert lines[0] == "Backtest 2017-06-01 00:00 – 2017-06-30 21:00 UTC"
    assert lines[2].startswith(("sub_bot_A lost ", "sub_bot_A earned "))
    assert max(map(len, lines)) <= 80
    assert "About the data" in ended.out


def test_a_setting_is_changed_for_one_run_only(desk: Path) -> None:
    plain = run(desk, "backtest", "--bot", "sub_bot_A", "--json").told["bots"][0]
    wide = run(desk, "backtest", "--bot", "sub_bot_A", "--set", "strategy_params.sl_ratio=4", "--json").told["bots"][0]
    still = run(desk, "backtest", "--bot", "sub_bot_A", "--set", "dynamic_sizing.enabled=false", "--json").told["bots"][
        0
    ]
    assert wide["orders"]["stop"] < plain["orders"]["stop"]
    assert set(plain["multipliers"]) == {"0.5", "0.75", "1"} and still["multipliers"] == {}
    assert run(desk, "backtest", "--bot", "sub_bot_A", "--json").told["bots"][0] == plain


def test_a_strategy_alone_trades_the_market_of_the_first_bot(desk: Path) -> None:
    words = ("--strategy", "donchian_breakout", "--set", "strategy_params.channel=55", "--json")
    [bot] = run(desk, "backtest", *words).told["bots"]
    assert (bot["id"], bot["symbol"], bot["strategy"]) == ("donchian_breakout", "EURUSD", "donchian_breakout")
    assert 0 < bot["trades"] < 227


def test_every_fill_is_in_the_file_and_adds_up(desk: Path) -> None:
    told = run(desk, "backtest", "--trades", "fills.csv", "--json").told
    fills = rows(desk / "fills.csv")
    assert len(fills) == sum(bot["fills"] for bot in told["bots"])
    assert sum(float(fill["fee"]) for fill in fills) == pytest.approx(told["portfolio"]["fees"])
    assert [fill["time"] for fill in fills] == sorted(fill["time"] for fill in fills)
    assert {fill["reason"] for fill in fills} == {"entry", "add", "exit", "stop", "target"}
    assert [path.name for path in desk.iterdir() if path.name.startswith(".fills")] == []


def test_backtest_and_rehearsal_write_the_same_file_until_a_fee_differs(desk: Path) -> None:
    assert run(desk, "backtest", *MONTH, "--trades", "backtest.csv").code == 0
    assert run(desk, "rehearse", *MONTH, "--trades", "rehearsal.csv").code == 0
    backtest = (desk / "backtest.csv").read_bytes()
    assert (desk / "rehearsal.csv").read_bytes() == backtest
    assert len(backtest.splitlines()) > 20
    config = desk / "config.toml"
    config.write_text(config.read_text().replace("# taker_fee_bps = 5.5", "taker_fee_bps = 1.2", 1))
    assert run(desk, "backtest", *MONTH, "--trades", "dearer.csv").code == 0
    assert (desk / "dearer.csv").read_bytes() != backtest


def test_a_rough_day_comes_again_from_its_seed_and_is_taken_apart(desk: Path) -> None:
    words = ("rehearse", "--bot", "sub_bot_C", *MONTH, "--rough", "7", "--json", "--trades")
    told = run(desk, *words, "one.csv").told
    assert run(desk, *words, "two.csv").told == told
    assert (desk / "one.csv").read_bytes() == (desk / "two.csv").read_bytes()
    found = told["parity"]["sub_bot_C"]
    causes = ("price", "timing", "size", "refused", "funding", "outside")
    assert found["decision"]["exact"] and not found["model"]["equal"] and found["incidents"]
    assert sum(found["model"][name] for name in causes) == pytest.approx(found["model"]["total"])


def test_orders_that_our_own_limits_refuse_are_counted_and_excuse_a_difference(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTRADER__RISK__MAX_ORDER_NOTIONAL_USDT", "5000")
    told = run(desk, "rehearse", "--bot", "sub_bot_C", *MONTH, "--json").told
    found = told["parity"]["sub_bot_C"]
    assert found["vetoed"] > 0 and found["decision"]["exact"] and not found["model"]["equal"]


def test_a_rehearsal_that_breaks_off_leaves_the_one_before(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (desk / "data" / "rehearsal.db").read_bytes()

    def breaks_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autotrader.desk.rehearse.perform", breaks_off)
    assert run(desk, "rehearse", *MONTH).code != 0
    assert (desk / "data" / "rehearsal.db").read_bytes() == before
    assert sorted(path.name for path in (desk / "data").iterdir()) == ["rehearsal.db", "sample.db"]


@pytest.mark.parametrize("reason", ["entry", "add", "exit", "stop", "target"])
def test_an_order_is_explained_and_gives_itself_again(desk: Path, reason: str) -> None:
    run(desk, "backtest", "--trades", "fills.csv")
    fills = rows(desk / "fills.csv")
    name = next(fill["order_id"] for fill in fills if fill["reason"] == reason)
    told = run(desk, "explain", name, "--json").told
    assert (told["order"]["link_id"], told["order"]["purpose"]) == (name, reason.upper())
    assert told["proof"]["intent_equal"] and told["proof"]["trip_equal"]
    assert told["decision"]["strategy"] in ("ema_trend", "rsi_reversion", "donchian_breakout")
    assert told["decision"]["indicators"]
    size = told["sizing"]
    assert size["steps_wanted"] == pytest.approx(size["steps"] * size["multiplier"] * size["size_factor"])
    assert abs(size["steps_wanted"] - size["steps_planned"]) <= 0.5
    trip = "-".join(name.split("-")[:2]) + "-"
    mine = [fill for fill in fills if fill["order_id"].startswith(trip)]
    assert told["trip"]["price"] == pytest.approx(sum(float(fill["pnl"]) for fill in mine))
    assert told["trip"]["fees"] == pytest.approx(sum(float(fill["fee"]) for fill in mine))


def test_an_explanation_can_be_read(desk: Path) -> None:
    ended = run(desk, "explain", "sub_bot_A-1-1")
    assert ended.code == 0, ended.err
    assert "ema_trend said " in ended.out and "Round trip 1 ended by its " in ended.out
    assert "gives the recorded intent byte for byte" in " ".join(ended.out.split())


def test_a_journal_that_was_changed_is_found_out(desk: Path) -> None:
    with sqlite3.connect(desk / "data" / "rehearsal.db") as database:
        seq = database.execute("SELECT seq FROM orders WHERE link_id = 'sub_bot_A-1-1-0'").fetchone()[0]
        where = f"bot = 'sub_bot_A' AND seq = {seq} AND kind = 1"
        record = bytearray(database.execute(f"SELECT record FROM intents WHERE {where}").fetchone()[0])
        record[48] ^= 1  # the quantity
        database.execute(f"UPDATE intents SET record = ? WHERE {where}", [bytes(record)])
    database.close()
    ended = run(desk, "explain", "sub_bot_A-1-1-0")
    assert ended.code == 1
    assert "NOT REPRODUCED" in ended.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["backtest", "--bot", "sub_bot_D"], "the bots are sub_bot_A, sub_bot_B, sub_bot_C"),
        (["backtest", "--strategy", "ema_trned"], "ema_trned"),
        (["backtest", "--strategy", "ema_trend", "--bot", "sub_bot_A"], "exclude each other"),
        (["backtest", "--from", "2018-01-01", "--to", "2017-06-01"], "--from must be before --to"),
        (["backtest", "--from", "2017-06-01", "--to", "2017-06-01"], "--from must be before --to"),
        (["backtest", "--from", "2030-01-01", "--to", "2031-01-01"], "no bars in this period"),
        (["backtest", "--from", "yesterday"], "--from 'yesterday' is not a date"),
        (["backtest", "--set", "strategy_params.sl_ratio=-1"], "must be 0 or more"),
        (["backtest", "--set", "strategy_params.sl_ratoi=1"], "did you mean 'sl_ratio'"),
        (["backtest", "--set", "dynamic_sizing.enabled=perhaps"], "must be true or false"),
        (["backtest", "--set", "strategy_params.channel=55"], "channel"),
        (["backtest", "--set", "sl_ratio"], "is not KEY=VALUE"),
        (["backtest", "--timeframe", "7m"], "timeframe = '7m' must be a bar length"),
        (["backtest", "--venue", "bybit"], "no 1h bars of bybit EURUSD"),
        (["backtest", "--trades", "data"], "--trades data is a folder"),
        (["backtest", "--trades", "nowhere/fills.csv"], "--trades nowhere/fills.csv"),
        (["rehearse", "--bot", "sub_bot_D"], "there is no bot 'sub_bot_D'"),
        (["rehearse", "--from", "2018-01-01", "--to", "2017-06-01"], "--from must be before --to"),
        (["explain", "sub_bot_A-9999-1-0"], "there is no order 'sub_bot_A-9999-1-0'"),
        (["explain", "sub_bot_A-"], "orders begin with 'sub_bot_A-'"),
        (["explain", ""], "there is no order ''"),
        (["quickstart", "--no-serve", "--data", "nowhere"], "--data nowhere is not a folder"),
        (["quickstart", "--no-serve", "--data", "data"], "needs no files"),
        (["quickstart", "--no-serve", "--config", "other.toml"], "named config.toml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_clear_line(desk: Path, words: list[str], said: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in desk.rglob("*") if path.suffix != ".log"}
    ended = run(desk, *words)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert ended.err.startswith("autotrader: ") and ended.err.count("\n") == 1
    after = {path: path.stat().st_mtime_ns for path in desk.rglob("*") if path.suffix != ".log"}
    assert after.keys() == before.keys()
    assert after[desk / "config.toml"] == before[desk / "config.toml"]
    assert after[desk / "data" / "rehearsal.db"] == before[desk / "data" / "rehearsal.db"]


def test_a_broken_configuration_is_named(desk: Path) -> None:
    (desk / "config.toml").write_text("[general\n")
    ended = run(desk, "backtest")
    assert ended.code == 2 and "config.toml: not valid TOML" in ended.err


def test_a_database_that_cannot_be_opened_is_critical(desk: Path) -> None:
    (desk / "data" / "sample.db").write_bytes(b"this is no database, but long enough to be read as one" * 100)
    for words in (["backtest"], ["rehearse"], ["explain", "sub_bot_A-1-1-0"]):
        ended = run(desk, *words)
        assert ended.code == 1 and ended.err.startswith("autotrader: CRITICAL: database sqlite://")
        assert ended.err.count("\n") == 1


def test_fills_of_a_1h_bot_use_1m_bars_where_they_are_stored(tmp_path: Path) -> None:
    lines = ["open_time,open,high,low,close,volume"]
    price = 50_000.0
    for minute in range(6 * 1440):
        swing = 40 * (1 if (minute // 900) % 2 else -1) * (1 + minute % 7) / 4
        new = price + swing / 10
        top, bottom = max(price, new) + 15, min(price, new) - 15
        lines.append(f"{1_735_689_600_000 + minute * 60_000},{price:.1f},{top:.1f},{bottom:.1f},{new:.1f},100")
        price = round(new, 1)
    (tmp_path / "bybit_BTCUSDT_1m.csv").write_text("\n".join(lines) + "\n")
    assert run(tmp_path, "init").code == 0
    words = ("--venue", "bybit", "--symbol", "BTCUSDT", "--timeframe", "1m")
    assert run(tmp_path, "data", "import", "bybit_BTCUSDT_1m.csv", *words).code == 0
    told = run(tmp_path, "backtest", "--bot", "sub_bot_A", "--trades", "fills.csv", "--json").told
    assert told["bots"][0]["trades"] >= 1
    assert told["period"] == {"from": "2025-01-01T00:00:00Z", "to": "2025-01-07T00:00:00Z"}
    assert any(not fill["time"].endswith("00:00Z") for fill in rows(tmp_path / "fills.csv"))
    assert any("funding" in note and "lacks that cost" in note for note in told["notes"])


def test_a_trailing_stop_is_rehearsed_as_it_was_backtested_and_explained(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTRADER__SUB_BOTS__SUB_BOT_A__STRATEGY_PARAMS__SL_KIND", "trailing")
    words = ("--bot", "sub_bot_A", *MONTH, "--json", "--trades")
    assert run(desk, "backtest", *words, "backtest.csv").code == 0
    assert run(desk, "rehearse", *words, "rehearsal.csv").told["parity"]["sub_bot_A"]["model"]["equal"]
    assert (desk / "rehearsal.csv").read_bytes() == (desk / "backtest.csv").read_bytes()
    name = next(fill["order_id"] for fill in rows(desk / "rehearsal.csv") if fill["reason"] == "stop")
    told = run(desk, "explain", name)
    assert "the stop follows the price, from " in " ".join(told.out.split()), told.out
