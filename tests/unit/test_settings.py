"""The configuration: every key of the blueprint, one line per mistake, no secret anywhere."""

import os
import pickle
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from autotrader.config.sections import (
    PHASES,
    BotSettings,
    InstrumentSettings,
    ParamRange,
    bot_id,
    database_kind,
    masked,
)
from autotrader.config.settings import Settings, find_bot, load, parse, template, with_changes, write_template
from autotrader.core.errors import ConfigError

# Every key of the blueprint's section 6, with a value of the kind it has there
BLUEPRINT_KEYS: dict[str, Any] = {
    "general.environment": "testnet",
    "general.debug_mode": True,
    "general.timezone": "Asia/Tokyo",
    "database.db_type": "sqlite",
    "database.db_url": "sqlite:///x.db",
    "api_keys.bybit_api_key": "",
    "api_keys.bybit_api_secret": "",
    "api_keys.gemini_api_keys": [],
    "api_keys.discord_webhook_url": "",
    "master_bot.rebalance_interval_hours": 6,
    "master_bot.profit_save_day": "Friday",
    "master_bot.profit_save_hour": 12,
    "master_bot.profit_save_rate": 0.25,
    "master_bot.market_phase.indicator": "ADX",
    "master_bot.market_phase.short_period": 20,
    "master_bot.market_phase.long_period": 300,
    "master_bot.allocations.strong_bull": {"sub_bot_A": 0.5, "sub_bot_B": 0.25, "sub_bot_C": 0.25},
    "master_bot.allocations.weak_bull": {"sub_bot_A": 0.5, "sub_bot_B": 0.25, "sub_bot_C": 0.25},
    "master_bot.allocations.ranging": {"sub_bot_A": 0.5, "sub_bot_B": 0.25, "sub_bot_C": 0.25},
    "master_bot.allocations.weak_bear": {"sub_bot_A": 0.5, "sub_bot_B": 0.25, "sub_bot_C": 0.25},
    "master_bot.allocations.strong_bear": {"sub_bot_A": 0.5, "sub_bot_B": 0.25, "sub_bot_C": 0.25},
    "sub_bots.0.name": "SubBot-A (Calm)",
    "sub_bots.0.enabled": False,
    "sub_bots.0.symbol": "ETH/USDT",
    "sub_bots.0.base_lot": 0.005,
    "sub_bots.0.dynamic_sizing.enabled": False,
    "sub_bots.0.dynamic_sizing.volatility_indicator": "ATR",
    "sub_bots.0.dynamic_sizing.atr_period": 21,
    "sub_bots.0.dynamic_sizing.volatility_thresholds.low": 0.1,
    "sub_bots.0.dynamic_sizing.volatility_thresholds.medium": 300.0,
    "sub_bots.0.dynamic_sizing.sizing_multipliers.low": 1.5,
    "sub_bots.0.dynamic_sizing.sizing_multipliers.medium": 0.9,
    "sub_bots.0.dynamic_sizing.sizing_multipliers.high": 0.1,
    "sub_bots.0.split_entry.enabled": False,
    "sub_bots.0.split_entry.count": 4,
    "sub_bots.0.split_entry.method": "price",
    "sub_bots.0.split_entry.interval_seconds": 30,
    "sub_bots.0.strategy_params.tp_ratio": 3.0,
    "sub_bots.0.strategy_params.sl_ratio": 0.7,
    "news_sentiment.enabled": True,
    "news_sentiment.fetch_interval_minutes": 30,
    "news_sentiment.keywords": ["Ethereum"],
    "news_sentiment.sources": ["https://example.org/rss"],
    "news_sentiment.moving_average_period_hours": 12,
    "optimizer.auto_tuning_enabled": False,
    "optimizer.schedule": "30 2 * * sun",
    "optimizer.backtest_period_months": 12,
    "optimizer.target_metric": "profit",
    "optimizer.param_ranges": {"SubBot-A.strategy_params.sl_ratio": {"start": 0.5, "end": 1.0, "step": 0.25}},
}

# Section 6 as it is printed there, its three bots spelled out, with what only this house asks for (production's second key)
BLUEPRINT = """
[general]
environment = "production"
confirm_production = "I trade real money"
debug_mode = false
timezone = "UTC"
[database]
db_type = "postgresql"
db_url = "postgresql://user:password@host:port/dbname"
[api_keys]
[master_bot]
rebalance_interval_hours = 4
profit_save_day = "Sunday"
profit_save_hour = 0
profit_save_rate = 0.5
[master_bot.market_phase]
indicator = "EMA_Cross"
short_period = 50
long_period = 200
[master_bot.allocations]
strong_bull = { sub_bot_A = 0.2, sub_bot_B = 0.3, sub_bot_C = 0.5 }
weak_bull   = { sub_bot_A = 0.3, sub_bot_B = 0.4, sub_bot_C = 0.3 }
ranging     = { sub_bot_A = 0.5, sub_bot_B = 0.3, sub_bot_C = 0.2 }
weak_bear   = { sub_bot_A = 0.3, sub_bot_B = 0.4, sub_bot_C = 0.3 }
strong_bear = { sub_bot_A = 0.2, sub_bot_B = 0.3, sub_bot_C = 0.5 }
BOTS
[news_sentiment]
enabled = true
fetch_interval_minutes = 15
keywords = ["Bitcoin", "BTC", "crypto", "FOMC", "inflation"]
sources = [
    "https://news.google.com/rss/search?q=bitcoin&hl=en-US&gl=US&ceid=US:en"
]
moving_average_period_hours = 24
[optimizer]
auto_tuning_enabled = true
schedule = "0 1 1 * *"
backtest_period_months = 6
target_metric = "sharpe_ratio"
[optimizer.param_ranges]
"SubBot-A.strategy_params.sl_ratio" = { start = 0.5, end = 2.0, step = 0.1 }
"SubBot-C.dynamic_sizing.atr_period" = { start = 10, end = 30, step = 2 }
"""
BOT = """
[[sub_bots]]
name = "SubBot-%s (Stable)"
enabled = true
symbol = "BTC/USDT"
base_lot = 0.001
[sub_bots.dynamic_sizing]
enabled = true
volatility_indicator = "ATR"
atr_period = 14
volatility_thresholds = { low = 100.0, medium = 300.0 }
sizing_multipliers = { low = 1.0, medium = 0.75, high = 0.5 }
[sub_bots.split_entry]
enabled = true
count = 3
method = "time"
interval_seconds = 60
[sub_bots.strategy_params]
tp_ratio = 1.5
sl_ratio = 1.0
"""

SMALL = '[[sub_bots]]\nname = "SubBot-A (Stable)"\nsymbol = "BTCUSDT"\nbase_lot = 0.001\n'


def read(text: str, **env: str) -> Settings:
    return parse(text, path=Path("config.toml"), env=env)


def refusal(text: str, **env: str) -> str:
    "The one line that the text is refused with."
    with pytest.raises(ConfigError) as caught:
        read(text, **env)
    message = str(caught.value)
    assert "\n" not in message
    return message


def edited(changes: dict[str, Any], kind: str = "config") -> str:
    "The shipped configuration with these settings."
    document = tomlkit.parse(template(kind))  # type: ignore[arg-type]
    for dotted, value in changes.items():
        *steps, last = dotted.split(".")
        here: Any = document
        for step in steps:
            here = here[int(step)] if step.isdigit() else here.setdefault(step, tomlkit.table())
        here[last] = value
    return tomlkit.dumps(document)


# --- what is accepted


@pytest.mark.parametrize("dotted", BLUEPRINT_KEYS)
def test_every_key_of_the_blueprint_is_accepted_and_used(dotted: str) -> None:
    value = BLUEPRINT_KEYS[dotted]
    settings = read(edited({dotted: value}))
    if dotted.startswith("api_keys."):
        return  # allowed only empty
    here: Any = settings
    for step in dotted.split("."):
        here = here[int(step)] if step.isdigit() else getattr(here, step) if hasattr(here, step) else here[step]
    if dotted == "optimizer.param_ranges":
        assert here["SubBot-A.strategy_params.sl_ratio"].values == (0.5, 0.75, 1.0)
    elif dotted == "database.db_url":
        assert settings.database_url.endswith("/x.db")
    else:
        assert (list(here) if isinstance(value, list) else here) == (
            value.replace("/", "") if dotted.endswith("symbol") else value
        )


def test_the_blueprints_own_configuration_is_read_as_printed() -> None:
    settings = read(BLUEPRINT.replace("BOTS", "".join(BOT % letter for letter in "ABC")))
    assert [bot.id for bot in settings.sub_bots] == ["sub_bot_A", "sub_bot_B", "sub_bot_C"]
    assert settings.sub_bots[0].sizing == "lot"
    assert any("rebalancing changes nothing" in warning for warning in settings.warnings())


@pytest.mark.parametrize("kind", ["config", "sample"])
def test_the_shipped_configurations_are_valid_and_quiet(kind: Any) -> None:
    settings = read(template(kind))
    assert settings.warnings() == ()
    assert [bot.decision.strategy for bot in settings.sub_bots] == ["ema_trend", "rsi_reversion", "donchian_breakout"]
    assert {bot.sizing for bot in settings.sub_bots} == {"equity_frac"}
    assert {bot.timeframe for bot in settings.sub_bots} == {"1h"}
    assert [bot.split_entry.method for bot in settings.sub_bots] == ["time", "price", "time"]


def test_the_shipped_bots_trade_three_markets() -> None:
    assert [bot.symbol for bot in read(template()).sub_bots] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    assert {(bot.venue, bot.symbol) for bot in read(template("sample")).sub_bots} == {("sample", "EURUSD")}


def test_the_shipped_configuration_names_every_setting() -> None:
    "A person finds in the file whatever can be set; only what has no default value there is a comment."

    def names(model: Any) -> set[str]:
        return set(type(model).model_fields)

    raw, text = tomllib.loads(template()), template()
    settings = read(text)
    told = InstrumentSettings(symbol="BTCUSDT")  # a table that stands there as a comment
    assert "# [[instruments]]" in text and all(f"# {key} = " in text for key in names(told))
    for section in names(settings) - {"instruments"}:
        here, there = (
            (raw[section][0], settings.sub_bots[0])
            if section == "sub_bots"
            else (raw[section], getattr(settings, section))
        )
        absent = names(there) - set(here)
        assert all(f"# {key} = " in text for key in absent - {"id"}), (section, absent)


def test_the_source_of_the_templates_is_what_is_shipped(root: Path) -> None:
    sources = {"config.toml": "config.toml", "nbs/05_config/sample.toml": "sample.toml", ".env.example": "env.example"}
    for source, copy in sources.items():
        assert (root / source).read_bytes() == (root / "autotrader/config" / copy).read_bytes()


@pytest.mark.realdata
def test_all_three_multipliers_occur_on_recorded_data(data_dir: Path) -> None:
    import pandas as pd
    import talib

    frame = pd.read_parquet(data_dir / "bybit_perp_1h.parquet")
    for bot in read(template()).sub_bots:
        bars = frame[frame.symbol == bot.symbol]
        atr = talib.ATR(
            *(bars[c].to_numpy(float) for c in ("high", "low", "close")), timeperiod=bot.dynamic_sizing.atr_period
        )
        percent = 100 * atr[~pd.isna(atr)] / bars.close.to_numpy(float)[~pd.isna(atr)]
        bounds = bot.dynamic_sizing.volatility_thresholds
        shares = [
            (percent < bounds.low).mean(),
            ((percent >= bounds.low) & (percent < bounds.medium)).mean(),
            (percent >= bounds.medium).mean(),
        ]
        assert min(shares) > 0.15, (bot.id, shares)


def test_defaults_fill_a_small_file() -> None:
    settings = read(SMALL)
    assert settings.sub_bots[0].initial_capital_usdt == 10_000
    assert settings.general.environment == "development"
    assert settings.master_bot.allocations.ranging == {}


def test_both_spellings_of_a_symbol_are_one() -> None:
    assert {read(SMALL.replace("BTCUSDT", s)).sub_bots[0].symbol for s in ("BTC/USDT", "BTCUSDT", "btc/usdt")} == {
        "BTCUSDT"
    }


def test_a_strategys_numbers_keep_their_kind() -> None:
    params = read(SMALL + "[sub_bots.strategy_params]\nfast = 12\ngap = 0.5\n").sub_bots[0].strategy_params
    assert [(key, type(value)) for key, value in params.own.items()] == [("fast", int), ("gap", float)]


def test_a_toml_date_and_a_text_are_the_same_start() -> None:
    starts = {
        read(SMALL + f"history_start = {d}\n").sub_bots[0].history_start_ms
        for d in ('"2025-03-08"', "2025-03-08", "2025-03-08T00:00:00Z")
    }
    assert starts == {1_741_392_000_000}


def test_settings_cannot_be_changed() -> None:
    settings = read(SMALL)
    with pytest.raises(ValidationError):
        settings.sub_bots[0].base_lot = 1.0


# --- bots


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SubBot-A (Stable)", "sub_bot_A"),
        ("SubBot-B", "sub_bot_B"),
        ("sub_bot_A", "sub_bot_A"),
        ("BTCScalper", "BTC_scalper"),
        ("grid2 (test)", "grid2"),
    ],
)
def test_the_id_comes_from_the_name(name: str, expected: str) -> None:
    assert bot_id(name) == expected


@given(st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,6}([-_][A-Za-z][A-Za-z0-9]{0,5})?", fullmatch=True))
def test_an_id_is_its_own_id(name: str) -> None:
    assert bot_id(bot_id(name)) == bot_id(name)


def test_a_bot_is_found_by_any_of_its_names() -> None:
    settings = read(template())
    for text in ("sub_bot_A", "SubBot-A", "SubBot-A (Stable)", "SUB_BOT_A"):
        assert find_bot(settings, text) is settings.sub_bots[0]
    with pytest.raises(ConfigError, match="no bot 'SubBot-X'; the bots are sub_bot_A, sub_bot_B, sub_bot_C"):
        find_bot(settings, "SubBot-X")


def test_an_id_wins_over_a_name_and_a_shared_name_means_nobody() -> None:
    two = (
        SMALL.replace("SubBot-A (Stable)", "alpha (one)")
        + 'id = "first"\n'
        + SMALL.replace("SubBot-A (Stable)", "alpha (two)")
        + 'id = "alpha"\n'
    )
    settings = read(two)
    assert find_bot(settings, "alpha").name == "alpha (two)"
    settings = read(two.replace('id = "alpha"', 'id = "second"'))
    with pytest.raises(ConfigError, match="the bots are first, second"):
        find_bot(settings, "alpha")


def test_allocations_may_use_a_bots_name() -> None:
    text = SMALL + "[master_bot.allocations]\n" + "".join(f'{phase} = {{ "SubBot-A" = 1.0 }}\n' for phase in PHASES)
    assert read(text).master_bot.allocations.ranging == {"sub_bot_A": 1.0}


# --- what is refused, and how


@pytest.mark.parametrize(
    ("dotted", "value", "said"),
    [
        ("sub_bots.0.base_lot", "0.001", "config.toml: sub_bots.sub_bot_A.base_lot = '0.001' must be a number; write it without quotes"),
        ("sub_bots.1.base_lot", -1.0, "sub_bots.sub_bot_B.base_lot = -1.0 must be 0 or more"),
        ("sub_bots.0.split_entry.count", 3.0, "split_entry.count = 3.0 must be a whole number"),
        ("sub_bots.0.split_entry.count", 9, "split_entry.count = 9 must be 7 or less"),
        ("sub_bots.0.split_entry.count", True, "split_entry.count = True must be a whole number"),
        ("sub_bots.0.split_entry.method", "times", "must be one of 'time' or 'price'"),
        ("sub_bots.0.enabled", "yes", "enabled = 'yes' must be true or false"),
        ("sub_bots.0.symbol", "Bitcoin!", "symbol = 'Bitcoin!' must be a pair like BTC/USDT"),
        ("sub_bots.0.timeframe", "7m", "timeframe = '7m' must be a bar length"),
        ("sub_bots.0.history_start", "2025-02-31", "history_start = '2025-02-31' must be a date"),
        ("sub_bots.0.strategy_params.sl_ratio", -0.5, "sl_ratio = -0.5 must be 0 or more"),
        ("sub_bots.0.strategy_params.sl_kind", "moving", "must be one of 'fixed', 'trailing' or 'break_even'"),
        ("sub_bots.0.strategy_params.sl_unit", "ticks", "must be one of 'atr' or 'percent'"),
        ("sub_bots.0.strategy_params.trail_step", 1.5, "trail_step = 1.5 must be 1 or less"),
        ("sub_bots.0.strategy_params.break_even_at", 0, "break_even_at = 0 must be greater than 0"),
        ("sub_bots.0.strategy_params.trail_stop", 0.2, "unknown key 'trail_stop'; did you mean 'trail_step'?"),
        ("sub_bots.0.strategy_params.tp_ratoi", 1.0, "unknown key 'tp_ratoi'; did you mean 'tp_ratio'?"),
        ("sub_bots.0.strategy_params.fast", "12", "strategy_params.fast = '12' must be a number"),
        ("sub_bots.0.strategy_params.fast", float("inf"), "strategy_params.fast = inf must be a number"),
        ("sub_bots.0.dynamic_sizing.volatility_thresholds.low", 0.75, "low (0.75) must be below medium (0.75)"),
        ("sub_bots.0.dynamic_sizing.atr_perod", 14, "atr_perod: unknown key; did you mean 'atr_period'?"),
        ("sub_bots.0.max_leverage", 6.0, "sub_bots.sub_bot_A.max_leverage = 6 must not be above risk.max_leverage (5)"),
        ("sub_bots.0.equity_frac", 2.5, "equity_frac (2.5) must not be above max_leverage (2)"),
        ("sub_bots.1.name", "SubBot-A", "have the same id 'sub_bot_A'; give one of them an id"),
        ("sub_bots.1.id", "SUB_BOT_A", "have the same id"),
        ("sub_bots.0.id", "main", 'not "main"'),
        ("sub_bots.0.id", "a__b", 'single "_"'),
        ("sub_bots", [], "sub_bots must not be empty"),
        ("sub_bots", 5, "sub_bots = 5 must be a list"),
        ("genral.timezone", "UTC", "genral: unknown key; did you mean 'general'?"),
        ("general.timezone", "Mars/Base", "timezone = 'Mars/Base' must be a zone of the tz database"),
        ("general.environment", "production", 'needs confirm_production = "I trade real money"'),
        ("general", 5, "general = 5 must be a table"),
        ("master_bot.profit_save_day", "Sonntag", "profit_save_day = 'Sonntag' must be one of 'Monday'"),
        ("master_bot.profit_save_hour", 24, "profit_save_hour = 24 must be 23 or less"),
        ("master_bot.profit_save_rate", 1.5, "profit_save_rate = 1.5 must be 1 or less"),
        ("master_bot.market_phase.short_period", 200, "short_period (200) must be below long_period (200)"),
        ("master_bot.allocations.ranging", {"sub_bot_A": 0.5, "sub_bot_B": 0.4}, "ranging adds up to 0.9, must be 1"),
        ("master_bot.allocations.ranging", {"sub_bot_D": 1.0}, "allocations.ranging: there is no bot 'sub_bot_D'; the bots are sub_bot_A"),
        ("optimizer.schedule", "0 25 * * *", "schedule = '0 25 * * *' has the hour '25', which must lie in 0-23"),
        ("optimizer.schedule", "hourly", "must have five fields"),
        ("optimizer.param_ranges.x", {"start": 1, "end": 2, "step": 1}, "names no setting"),
        ("news_sentiment.sources", ["http://example.org"], "must be an https:// address"),
        ("compute.scheduler", "tcp://host", "address of a Dask scheduler"),
        ("dashboard.port", 70000, "port = 70000 must be 65535 or less"),
        ("dashboard.allowed_ips", ["10.0.0.1/8"], "must be an address or a network"),
        ("risk.breaker_drawdown", 0.4, "must not be above hard_stop_drawdown"),
        ("database.db_type", "postgresql", "db_url must begin with postgresql://"),
        ("database", {"db_type": "postgresql"}, "the database must be postgresql because"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_key_value_and_remedy(dotted: str, value: Any, said: str) -> None:
    message = refusal(edited({dotted: value}))
    assert message.startswith("config.toml: ")
    assert said in message


@pytest.mark.parametrize(
    ("dotted", "span", "said"),
    [
        ("SubBot-A.strategy_params.slow_ratio", (1, 2, 1), "names no setting"),
        ("SubBot-X.strategy_params.sl_ratio", (1, 2, 1), "names no setting"),
        ("SubBot-A.split_entry.method", (1, 2, 1), "is not a number"),
        ("SubBot-A.enabled", (0, 2, 1), "is not a number"),
        ("risk.max_leverage", (1, 2, 1), "is not a setting of a bot"),
        (
            "SubBot-A.strategy_params.sl_ratio",
            (-0.5, 2.0, 0.5),
            "reaches -0.5, which must be 0 or more",
        ),
        ("SubBot-A.dynamic_sizing.atr_period", (10, 30, 0.5), "reaches 10.5, which must be a whole number"),
        (
            "SubBot-A.dynamic_sizing.volatility_thresholds.low",
            (0.1, 0.9, 0.1),
            "reaches 0.9, which low (0.9) must be below medium",
        ),
        ("SubBot-A.strategy_params.sl_ratio", (2.0, 1.0, 0.5), "start (2) must be below end (1)"),
        ("SubBot-A.strategy_params.sl_ratio", (1.0, 2.0, 0.0), "step (0) must lie above 0"),
    ],
)
def test_a_range_that_cannot_be_tuned_is_refused(dotted: str, span: tuple[float, ...], said: str) -> None:
    assert said in refusal(
        edited({"optimizer.param_ranges": {dotted: dict(zip(("start", "end", "step"), span, strict=True))}})
    )


@given(st.integers(-50, 50), st.integers(1, 40), st.integers(1, 10))
def test_a_range_holds_both_ends_and_no_rounding(start: int, steps: int, step: int) -> None:
    span = ParamRange(start=start / 10, end=(start + steps * step) / 10, step=step / 10)
    assert span.values == tuple((start + i * step) / 10 for i in range(steps + 1))


def test_broken_toml_names_the_line() -> None:
    assert "line 2" in refusal("[general]\ndebug_mode = flase\n[risk]\nmax_leverage = 2\n")


def test_a_key_given_twice_is_refused() -> None:
    assert "not valid TOML" in refusal(SMALL + "base_lot = 0.002\n")


def test_one_mistake_is_one_however_much_it_spoils() -> None:
    "A bot that is wrong leaves no bot: that is no second mistake."
    assert "(and" not in refusal(edited({"sub_bots.0.base_lot": '"1"'}))
    settings = parse(SMALL, path=Path("config.toml"), env={})
    with pytest.raises(ConfigError) as raised:
        with_changes(settings, settings.sub_bots[0], ["base_lott=2"])
    assert str(raised.value).endswith("base_lott: unknown key; did you mean 'base_lot'?")


def test_several_mistakes_are_counted() -> None:
    assert refusal(edited({"sub_bots.0.base_lot": "1", "sub_bots.1.base_lot": "1"})).endswith("(and 1 more)")


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="autotrader init"):
        load(tmp_path / "config.toml", environ={})


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"[general]\n\xff\xfe")
    with pytest.raises(ConfigError, match="byte 10 is not UTF-8"):
        load(tmp_path / "config.toml", environ={})


def test_production_needs_postgresql_wherever_its_address_comes_from() -> None:
    text = edited({"general.environment": "production", "general.confirm_production": "I trade real money"})
    assert "the database must be postgresql because general.environment is 'production'" in refusal(text)
    assert read(text, AUTOTRADER_DATABASE_URL="postgresql://h/x").database_url == "postgresql://h/x"
    assert "must be postgresql" in refusal(text, AUTOTRADER_DATABASE_URL="sqlite:///x.db")


def test_the_address_of_the_environment_replaces_the_files() -> None:
    assert read(template(), AUTOTRADER_DATABASE_URL="postgresql://h/x").database_url == "postgresql://h/x"
    assert (
        read(edited({"database": {"db_type": "postgresql"}}), AUTOTRADER_DATABASE_URL="postgresql://h/x").database_url
        == "postgresql://h/x"
    )


def test_an_env_file_that_others_can_read_is_warned_about(tmp_path: Path) -> None:
    write_template(tmp_path)
    (tmp_path / ".env").chmod(0o644)
    assert any("chmod 600" in warning for warning in load(tmp_path / "config.toml", environ={}).warnings())


def test_two_bots_on_one_account_and_market_are_refused() -> None:
    text = edited({"sub_bots.0.sub_account": "1", "sub_bots.1.sub_account": "1", "sub_bots.1.symbol": "BTC/USDT"})
    assert "sub_bots.sub_bot_B.sub_account trades BTCUSDT on the account of sub_bot_A" in refusal(text)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda x: st.lists(x, max_size=2) | st.dictionaries(st.text(max_size=4), x, max_size=2), max_leaves=4), st.sampled_from(sorted(set(BLUEPRINT_KEYS))))  # fmt: skip
def test_no_value_anywhere_ends_in_anything_but_settings_or_one_line(value: Any, dotted: str) -> None:
    try:
        text = edited({dotted: value})
    except Exception:
        return  # TOML has no such value
    try:
        assert isinstance(read(text), Settings)
    except ConfigError as error:
        assert str(error).startswith("config.toml: ")
        assert "\n" not in str(error)


# --- environment


def test_the_environment_wins_over_the_env_file_and_that_over_the_file(tmp_path: Path) -> None:
    write_template(tmp_path)
    path, env = tmp_path / "config.toml", tmp_path / ".env"
    assert load(path, environ={}).risk.max_orders_per_minute == 30
    env.write_text("AUTOTRADER__RISK__MAX_ORDERS_PER_MINUTE=20\n")
    assert load(path, environ={}).risk.max_orders_per_minute == 20
    assert load(path, environ={"AUTOTRADER__RISK__MAX_ORDERS_PER_MINUTE": "10"}).risk.max_orders_per_minute == 10


@pytest.mark.parametrize(
    ("variable", "text", "steps", "value"),
    [
        ("GENERAL__DEBUG_MODE", "true", "general.debug_mode", True),
        ("GENERAL__TIMEZONE", "Asia/Tokyo", "general.timezone", "Asia/Tokyo"),
        ("NEWS_SENTIMENT__KEYWORDS", "BTC, ETH", "news_sentiment.keywords", ("BTC", "ETH")),
        ("NEWS_SENTIMENT__KEYWORDS", '["a,b"]', "news_sentiment.keywords", ("a,b",)),
        ("BACKTEST__TAKER_FEE_BPS", "5.5", "backtest.taker_fee_bps", 5.5),
        ("MASTER_BOT__MARKET_PHASE__SHORT_PERIOD", "20", "master_bot.market_phase.short_period", 20),
        ("SUB_BOTS__SUB_BOT_A__BASE_LOT", "0.002", "sub_bots.0.base_lot", 0.002),
        ("SUB_BOTS__SUB_BOT_B__ENABLED", "false", "sub_bots.1.enabled", False),
        ("SUB_BOTS__SUB_BOT_A__STRATEGY_PARAMS__FAST", "9", "sub_bots.0.strategy_params.fast", 9),
        ("SUB_BOTS__SUB_BOT_A__HISTORY_START", "2025-03-08", "sub_bots.0.history_start", "2025-03-08T00:00:00Z"),
        ("SUB_BOTS__SUB_BOT_A__SUB_ACCOUNT", "123", "sub_bots.0.sub_account", "123"),
        ("DATABASE__DB_URL", "sqlite:////tmp/y.db", "database_url", "sqlite:////tmp/y.db"),
    ],
)
def test_any_key_can_come_from_the_environment(variable: str, text: str, steps: str, value: Any) -> None:
    here: Any = read(template(), **{f"AUTOTRADER__{variable}": text})
    for step in steps.split("."):
        here = here[int(step)] if step.isdigit() else getattr(here, step)
    assert (here, type(here)) == (value, type(value))


def test_shares_can_come_from_the_environment() -> None:
    env = {
        f"AUTOTRADER__MASTER_BOT__ALLOCATIONS__RANGING__SUB_BOT_{letter}": share
        for letter, share in zip("ABC", ("0.6", "0.3", "0.1"), strict=True)
    }
    assert read(template(), **env).master_bot.allocations.ranging == {
        "sub_bot_A": 0.6,
        "sub_bot_B": 0.3,
        "sub_bot_C": 0.1,
    }


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("RISK__MAX_LEVERAG", "risk.max_leverag: unknown key; did you mean 'max_leverage'?"),
        ("RISKS__MAX_LEVERAGE", "risks: unknown key; did you mean 'risk'?"),
        ("RISK", "risk is a whole table"),
        ("RISK__MAX_LEVERAGE__X", "risk.max_leverage.x: nothing is below a single setting"),
        (
            "SUB_BOTS__SUB_BOT_X__ENABLED",
            "sub_bots.sub_bot_x: there is no such bot; the bots are sub_bot_A, sub_bot_B, sub_bot_C",
        ),
        ("SUB_BOTS__SUB_BOT_A", "sub_bots.sub_bot_A is a whole table"),
        ("RISK__MAX_LEVERAGE", "(environment or .env): risk.max_leverage = 'canary' must be a number"),
        ("API_KEYS__BYBIT_API_KEY", "api_keys: unknown key"),
    ],
)
def test_a_variable_that_does_not_fit_is_named(variable: str, said: str) -> None:
    message = refusal(template(), **{f"AUTOTRADER__{variable}": "canary"})
    assert message.startswith(f"AUTOTRADER__{variable}")
    assert said in message


def test_a_broken_line_of_the_env_file_is_named_by_number_only(tmp_path: Path) -> None:
    write_template(tmp_path)
    (tmp_path / ".env").write_text("NEWS_API_KEY=x\nthis is canary-secret not a line\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "config.toml", environ={})
    assert "line 2" in str(caught.value)
    assert "canary" not in str(caught.value)


# --- secrets

CANARIES = {
    "BYBIT_MAIN_API_KEY": "canary-main-key",
    "BYBIT_MAIN_API_SECRET": "canary-main-secret",
    "BYBIT_SUB_BOT_A_API_KEY": "canary-a-key",
    "BYBIT_SUB_BOT_A_API_SECRET": "canary-a-secret",
    "GEMINI_API_KEYS": "canary-g1, canary-g2",
    "DISCORD_WEBHOOK_URL": "https://discord.com/api/webhooks/1/canary-hook",
    "NEWS_API_KEY": "canary-news",
    "AUTOTRADER_DATABASE_URL": "postgresql://me:canary-db@host/x",
    "AUTOTRADER_DASHBOARD_PASSWORD": "canary-dashboard",
}


def test_secrets_are_read_and_never_shown() -> None:
    settings = read(template(), **CANARIES)
    secrets = settings.secrets
    assert secrets.bybit["sub_bot_A"].secret.get_secret_value() == "canary-a-secret"
    assert set(secrets.bybit) == {"main", "sub_bot_A"}
    assert [key.get_secret_value() for key in secrets.gemini_api_keys] == ["canary-g1", "canary-g2"]
    assert settings.database_url == CANARIES["AUTOTRADER_DATABASE_URL"]
    shown = [
        repr(settings),
        str(settings),
        repr(secrets),
        settings.model_dump_json(),
        str(settings.model_dump()),
        " ".join(settings.warnings()),
    ]
    assert not [text for text in shown if "canary" in text]
    assert len(secrets.values()) == 10


@pytest.mark.parametrize("absent", ["BYBIT_MAIN_API_KEY", "BYBIT_SUB_BOT_A_API_SECRET"])
def test_half_a_login_is_refused_without_showing_it(absent: str) -> None:
    message = refusal(template(), **{name: value for name, value in CANARIES.items() if name != absent})
    assert f"{absent} is not" in message
    assert "canary" not in message


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DISCORD_WEBHOOK_URL", "http://canary/x"),
        ("AUTOTRADER_DATABASE_URL", "mysql://me:canary@host/x"),
        ("AUTOTRADER_DASHBOARD_PASSWORD", "canary"),
    ],
)
def test_a_wrong_secret_is_named_not_echoed(variable: str, value: str) -> None:
    message = refusal(template(), **{variable: value})
    assert variable in message
    assert "canary" not in message


@pytest.mark.parametrize(
    "text",
    [
        template().replace("[api_keys]", '[api_keys]\nbybit_api_key = "canary"'),
        template().replace("[api_keys]", '[api_keys]\ngemini_api_keys = ["canary"]'),
        'api_keys = "canary"\n' + SMALL,
        edited({"gemini.api_key": "canary"}),
        edited({"canary_free": {"secret": "canary"}}).replace("canary_free", "secrets"),
        edited({"database.db_url": "mysql://me:canary@host/x"}),
        edited({"database.db_url": ["canary"]}),
        edited({"database.db_type": "postgresql://me:canary@host/x"}),
        edited({"general.timezone": "postgresql://me:canary@host/x"}),
    ],
)
def test_a_secret_in_the_file_is_never_echoed(text: str) -> None:
    assert "canary" not in refusal(text)


def test_a_filled_api_keys_table_is_refused_with_the_remedy() -> None:
    message = refusal(template().replace("[api_keys]", '[api_keys]\nbybit_api_secret = "x"'))
    assert "[api_keys] is filled (bybit_api_secret)" in message
    assert ".env" in message


def test_a_password_in_the_file_is_hidden_and_warned_about() -> None:
    settings = read(edited({"database.db_type": "postgresql", "database.db_url": "postgresql://me:canary@host/x"}))
    assert "canary" not in repr(settings) + settings.model_dump_json() + " ".join(settings.warnings())
    assert any("AUTOTRADER_DATABASE_URL" in warning for warning in settings.warnings())
    assert masked(settings.database_url) == "postgresql://***@host/x"


def test_a_key_of_no_bot_is_warned_about() -> None:
    settings = read(template(), BYBIT_SUB_BOT_X_API_KEY="canary", BYBIT_SUB_BOT_X_API_SECRET="canary")
    assert sum("BYBIT_SUB_BOT_X_API_KEY belongs to no bot" in warning for warning in settings.warnings()) == 1


def test_settings_travel_to_another_process() -> None:
    settings = read(template(), **CANARIES)
    there = pickle.loads(pickle.dumps(settings))
    assert there == settings
    assert there.database_url == settings.database_url
    assert there.file_hash == settings.file_hash


# --- paths and templates


def test_a_relative_database_lies_beside_the_file(tmp_path: Path) -> None:
    write_template(tmp_path)
    settings = load(tmp_path / "config.toml", environ={})
    assert settings.database_url == f"sqlite:///{tmp_path}/data/autotrader.db"
    assert settings.folder == tmp_path
    for url in ("sqlite:////var/x.db", "sqlite://", "sqlite:///:memory:", "postgresql://h/x"):
        assert load(tmp_path / "config.toml", environ={"AUTOTRADER_DATABASE_URL": url}).database_url == url


@pytest.mark.parametrize(
    ("url", "kind"), [("postgresql+psycopg://h/x", "postgresql"), ("mysql://h/x", None), ("x.db", None)]
)
def test_the_kind_of_a_database_comes_from_its_address(url: str, kind: str | None) -> None:
    assert database_kind(url) == kind


def test_init_writes_both_files_and_only_its_owner_reads_the_secrets(tmp_path: Path) -> None:
    written = write_template(tmp_path / "new")
    assert [path.name for path in written] == ["config.toml", ".env"]
    assert (tmp_path / "new/.env").stat().st_mode & 0o777 == 0o600
    assert load(tmp_path / "new/config.toml", environ={}).warnings() == ()


@pytest.mark.parametrize("existing", ["config.toml", ".env"])
def test_init_overwrites_nothing_and_leaves_nothing_half_written(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("mine")
    with pytest.raises(ConfigError, match=f"{existing}: exists already"):
        write_template(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "mine"


def test_init_into_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_template(tmp_path / "file" / "below")


def test_the_process_environment_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_template(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "AUTOTRADER__DASHBOARD__PORT", "9001")
    assert load().dashboard.port == 9001


def test_a_bot_needs_what_its_sizing_uses() -> None:
    with pytest.raises(ValidationError, match="needs base_lot above 0"):
        BotSettings(name="A", symbol="BTCUSDT", sizing="lot")  # type: ignore[call-arg]
