"""Rewriting config.toml: only the named values change, and a crash or a mistake changes nothing."""

import multiprocessing
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrader.config import rewrite as module
from autotrader.config.rewrite import changed, rewrite
from autotrader.config.settings import file_hash, load, template, write_template
from autotrader.core.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_template(tmp_path)
    return tmp_path / "config.toml"


def known(path: Path) -> str:
    return load(path, environ={}).file_hash


def comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines()]


def flat(value: Any, steps: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    "Every value of a TOML document by its steps."
    if isinstance(value, dict | list) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for step, inner in pairs for key, leaf in flat(inner, (*steps, step)).items()}
    return {steps: value}


def test_only_the_named_value_changes(path: Path) -> None:
    before = path.read_text()
    diff = rewrite(path, {"SubBot-B.strategy_params.sl_ratio": 1.25}, expect_hash=known(path), environ={})
    after = path.read_text()
    assert comments(after) == comments(before)
    old, new = flat(tomllib.loads(before)), flat(tomllib.loads(after))
    assert list(old) == list(new)
    assert {key: new[key] for key in new if new[key] != old[key]} == {
        ("sub_bots", 1, "strategy_params", "sl_ratio"): 1.25
    }
    assert diff.splitlines()[-2:] == ["-sl_ratio = 2.0", "+sl_ratio = 1.25"]


def test_every_way_to_name_a_setting_works(path: Path) -> None:
    changes = {
        "SubBot-A.dynamic_sizing.volatility_thresholds.low": 0.4,
        "sub_bot_B.dynamic_sizing.atr_period": 20,
        "sub_bots.sub_bot_C.split_entry.method": "price",
        "SubBot-C (Aggressive).strategy_params.channel": 30,
        "optimizer.auto_tuning_enabled": False,
        "news_sentiment.keywords": ["ETH"],
        "sub_bot_A.history_start": "2025-03-08",
    }
    rewrite(path, changes, expect_hash=known(path), environ={})
    settings = load(path, environ={})
    a, b, c = settings.sub_bots
    assert (a.dynamic_sizing.volatility_thresholds.low, b.dynamic_sizing.atr_period, c.split_entry.method) == (
        0.4,
        20,
        "price",
    )
    assert (c.strategy_params.own["channel"], settings.optimizer.auto_tuning_enabled) == (30, False)
    assert (settings.news_sentiment.keywords, a.history_start) == (("ETH",), "2025-03-08T00:00:00Z")


def test_a_table_left_to_its_defaults_is_made(path: Path) -> None:
    path.write_text('[[sub_bots]]\nname = "A"\nsymbol = "BTCUSDT"\nbase_lot = 0.001\n')
    rewrite(path, {"A.strategy_params.sl_ratio": 2, "risk.max_leverage": 4}, expect_hash=known(path), environ={})
    settings = load(path, environ={})
    assert (settings.sub_bots[0].strategy_params.sl_ratio, settings.risk.max_leverage) == (2.0, 4.0)


@given(
    sl=st.floats(0.1, 10), period=st.integers(2, 500), low=st.floats(0.01, 0.7), text=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=10)
)  # fmt: skip
def test_what_is_written_is_what_is_read(sl: float, period: int, low: float, text: str) -> None:
    changes = {
        "SubBot-A.strategy_params.sl_ratio": sl,
        "SubBot-A.dynamic_sizing.atr_period": period,
        "SubBot-A.dynamic_sizing.volatility_thresholds.low": low,
        "gemini.model": text,
    }
    new, found = changed(template(), changes, path=Path("config.toml"))
    assert comments(new)[:10] == comments(template())[:10]
    written = flat(tomllib.loads(new))
    assert [written[found[dotted]] for dotted in changes] == list(changes.values())


def test_a_whole_number_over_a_decimal_stays_a_decimal() -> None:
    new, _ = changed(template(), {"SubBot-A.strategy_params.sl_ratio": 2}, path=Path("c"))
    assert "sl_ratio = 2.0  " in new


def test_numbers_of_numpy_are_plain_numbers() -> None:
    import numpy as np

    new, _ = changed(
        template(),
        {"SubBot-A.strategy_params.sl_ratio": np.float64(1.3), "SubBot-A.dynamic_sizing.atr_period": np.int64(9)},
        path=Path("c"),
    )
    bot = tomllib.loads(new)["sub_bots"][0]
    assert (bot["strategy_params"]["sl_ratio"], bot["dynamic_sizing"]["atr_period"]) == (1.3, 9)


def test_line_ends_are_kept(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    rewrite(path, {"SubBot-A.strategy_params.sl_ratio": 1.1}, expect_hash=known(path), environ={})
    text = path.read_bytes()
    assert text.count(b"\n") == text.count(b"\r\n") > 100


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"SubBot-A.strategy_params.sl_ratio": -1.0}, "sl_ratio = -1.0 must be 0 or more"),
        ({"SubBot-A.strategy_params.sl_ratio": "1"}, "sl_ratio = '1' must be a number"),
        ({"SubBot-A.strategy_params.sl_ratio": None}, "a setting cannot be a NoneType"),
        ({"SubBot-A.dynamic_sizing.volatility_thresholds.low": 9.0}, "low (9) must be below medium"),
        ({"SubBot-A.dynamic_sizing.atr_perod": 9}, "did you mean 'atr_period'"),
        ({"SubBot-A.split_entry.count.x": 9}, "names no setting"),
        ({"SubBot-X.split_entry.count": 9}, "the bots are sub_bot_A"),
        (
            {"SubBot-A.strategy_params.sl_ratio": 1.0, "SubBot-B.strategy_params.sl_ratio": -0.5},
            "must be 0 or more",
        ),
        ({"general.environment": "production"}, "needs confirm_production"),
    ],
)
def test_a_wrong_change_leaves_the_file_as_it_was(path: Path, changes: dict[str, Any], said: str) -> None:
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        rewrite(path, changes, expect_hash=known(path), environ={})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == [".env", "config.toml"]


def test_a_file_that_somebody_edited_is_left_alone(path: Path) -> None:
    expected = known(path)
    path.write_text(path.read_text() + "# a person was here\n")
    with pytest.raises(ConfigError, match="was changed since it was read"):
        rewrite(path, {"SubBot-A.strategy_params.sl_ratio": 1.0}, expect_hash=expected, environ={})
    assert path.read_text().endswith("# a person was here\n")


def test_the_new_hash_allows_the_next_change(path: Path) -> None:
    for value in (1.1, 1.2, 1.3):
        rewrite(path, {"SubBot-A.strategy_params.sl_ratio": value}, expect_hash=known(path), environ={})
    assert known(path) == file_hash(path.read_text())


def test_a_change_that_the_environment_would_hide_is_refused(path: Path) -> None:
    env = {"AUTOTRADER__SUB_BOTS__SUB_BOT_A__STRATEGY_PARAMS__SL_RATIO": "9"}
    with pytest.raises(ConfigError, match="would hide the change"):
        rewrite(path, {"SubBot-A.strategy_params.sl_ratio": 1.0}, expect_hash=known(path), environ=env)


@pytest.mark.parametrize("step", ["fsync", "fchown", "fchmod"])
def test_a_crash_while_writing_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    before, expected = path.read_bytes(), known(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, step, full)
    with pytest.raises(ConfigError, match="No space left on device"):
        rewrite(path, {"SubBot-A.strategy_params.sl_ratio": 1.0}, expect_hash=expected, environ={})
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == [".env", "config.toml"]


def test_a_link_stays_a_link_and_permissions_stay(path: Path, tmp_path: Path) -> None:
    path.chmod(0o640)
    link = tmp_path / "here.toml"
    link.symlink_to(path)
    rewrite(link, {"SubBot-A.strategy_params.sl_ratio": 1.0}, expect_hash=known(path), environ={})
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert load(path, environ={}).sub_bots[0].strategy_params.sl_ratio == 1.0


def test_the_diff_shows_no_login(path: Path) -> None:
    diff = rewrite(
        path,
        {"database.db_type": "postgresql", "database.db_url": "postgresql://me:canary@h/x"},
        expect_hash=known(path),
        environ={},
    )
    assert "postgresql://***@h/x" in diff
    assert "canary" not in diff


def test_nothing_to_change_writes_nothing(path: Path) -> None:
    before = path.stat()
    assert rewrite(path, {"SubBot-A.split_entry.count": 3}, expect_hash=known(path), environ={}) == ""
    assert path.stat().st_ino == before.st_ino


def _writer(path: Path, value: float, expected: str) -> bool:
    try:
        rewrite(path, {"SubBot-A.strategy_params.sl_ratio": value}, expect_hash=expected, environ={})
    except ConfigError:
        return False
    return True


def test_of_two_writers_one_wins(path: Path) -> None:
    expected = known(path)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        won = pool.starmap(_writer, [(path, 1.0 + i / 10, expected) for i in range(6)])
    assert won.count(True) == 1
    assert load(path, environ={}).sub_bots[0].strategy_params.sl_ratio == 1.0 + won.index(True) / 10
