"""The model registry on both databases: a version is whole or not there, the live one stays, and a process may die at any point of it."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from autotrader.core.errors import ConfigError, ModelError
from autotrader.store.database import Store, open_store
from autotrader.store.registry import (
    activate,
    activations_of,
    active_model,
    clean,
    deactivate,
    forget,
    model_named,
    models_folder,
    models_of,
    register_model,
)
from autotrader.store.tables import ModelRow

DAY = 86_400_000
BTC, ETH = ("bybit", "BTCUSDT"), ("bybit", "ETHUSDT")


@pytest.fixture
def store(store: Store, tmp_path: Path) -> Store:
    "A store whose files have a folder of their own."
    return Store(store.url, store.engine, store.declared, tmp_path)


def new(store: Store, content: bytes, *, at: int = 10, markets: tuple[tuple[str, str], ...] = (BTC,)) -> int:
    return register_model(
        store,
        content,
        markets=markets,
        timeframe="1h",
        learned_until_ms=at * DAY,
        good_until_ms=(at + 30) * DAY,
        fingerprint="f",
        parameters={"seed": 7},
        scores={"skill": -0.01},
        now_ms=at * DAY,
    ).version


def live(store: Store, market: tuple[str, str] = BTC) -> int | None:
    found = active_model(store, *market, "1h")
    return None if found is None else found.version


def test_what_is_registered_is_found_again(store: Store) -> None:
    version = new(store, b"one", markets=(BTC, ETH))
    found = model_named(store, f"v{version}")
    assert found.path.read_bytes() == b"one" and found.sha256 == hashlib.sha256(b"one").hexdigest()
    assert found.path.parent == models_folder(store) and found.path.name.startswith("bybit_BTCUSDT_and-1-more_1h_v1_")
    assert (found.parameters, found.scores, found.size) == ({"seed": 7}, {"skill": -0.01}, 3)
    assert [m.version for m in models_of(store, ETH, "1h")] == [version] and models_of(store, ETH, "4h") == []


def test_the_same_bytes_are_the_same_version_also_from_many_at_once(store: Store) -> None:
    with ThreadPoolExecutor(6) as pool:
        versions = set(pool.map(lambda n: new(store, b"same" if n % 2 else f"other {n}".encode()), range(12)))
    assert len(versions) == 7
    assert sorted(path.read_bytes() for path in models_folder(store).iterdir()) == sorted(
        [b"same", *(f"other {n}".encode() for n in range(0, 12, 2))]
    )


def test_the_newest_activation_of_a_market_holds_and_all_before_it_are_kept(store: Store) -> None:
    one, two = new(store, b"one"), new(store, b"two", markets=(BTC, ETH))
    assert live(store) is None
    activate(store, one, who="anna", reason="the first", now_ms=1)
    activate(store, two, who="ben", reason="for ether", now_ms=2, markets=[ETH])
    assert (live(store), live(store, ETH), active_model(store, *BTC, "4h")) == (one, two, None)
    activate(store, two, who="ben", reason="for both", now_ms=3)
    deactivate(store, ETH, "1h", who="anna", reason="no ether", now_ms=4)
    assert (live(store), live(store, ETH)) == (two, None)
    told = [(each.market[1], each.version, each.who, each.reason) for each in activations_of(store)]
    assert told == [
        ("ETHUSDT", None, "anna", "no ether"),
        ("ETHUSDT", two, "ben", "for both"),
        ("BTCUSDT", two, "ben", "for both"),
        ("ETHUSDT", two, "ben", "for ether"),
        ("BTCUSDT", one, "anna", "the first"),
    ]


@pytest.mark.parametrize("wrong", [b"onE", b"", b"one "])
def test_a_file_that_is_not_the_registered_one_is_not_activated(store: Store, wrong: bytes) -> None:
    version = new(store, b"one")
    model_named(store, version).path.write_bytes(wrong)
    with pytest.raises(ModelError, match="is not the file that was registered as model 1") as told:
        activate(store, version, who="a", reason="b", now_ms=1)
    assert "\n" not in str(told.value) and live(store) is None


def test_the_live_model_of_any_market_is_never_deleted(store: Store) -> None:
    versions = [new(store, f"model {n}".encode(), at=n, markets=(BTC, ETH)) for n in range(1, 7)]
    activate(store, versions[0], who="a", reason="old and good", now_ms=1, markets=[BTC])
    activate(store, versions[1], who="a", reason="old and good", now_ms=1, markets=[ETH])
    for version in versions[:2]:
        with pytest.raises(ConfigError, match=f"model {version} is live for bybit"):
            forget(store, version)
    found = clean(store, keep=1, days=1, now_ms=900 * DAY)
    assert set(found.versions) == set(versions[2:])
    assert [m.version for m in models_of(store)] == versions[1::-1]
    assert len(list(models_folder(store).iterdir())) == 2 and live(store) == versions[0]


def test_clean_keeps_the_newest_of_each_market_and_what_is_young(store: Store) -> None:
    btc = [new(store, f"btc {n}".encode(), at=n) for n in range(1, 6)]
    eth = [new(store, f"eth {n}".encode(), at=n, markets=(ETH,)) for n in range(1, 4)]
    assert clean(store, keep=3, days=100, now_ms=6 * DAY).versions == (btc[1], btc[0])
    assert clean(store, keep=3, days=3.5, now_ms=6 * DAY).versions == (eth[1], eth[0])
    assert {m.version for m in models_of(store)} == {*btc[2:], eth[2]}


def test_a_number_is_used_once(store: Store) -> None:
    first = new(store, b"one")
    forget(store, first)
    assert new(store, b"one") > first and model_named(store, first).state == "deleted"


MORTAL = """
import sys
from pathlib import Path
from autotrader.store import registry
from autotrader.store.database import open_store

url, folder, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
with open_store(url, folder=folder) as store:
    for n in range(10_000):
        content = f"{name} {n} ".encode() * 60_000
        told = dict(timeframe="1h", learned_until_ms=1, good_until_ms=2, fingerprint="f", parameters={}, scores={}, now_ms=n)
        found = registry.register_model(store, content, markets=[("bybit", "BTCUSDT")], **told)
        registry.activate(store, found.version, who=name, reason="newest", now_ms=n)
        registry.clean(store, keep=3, days=1e6, now_ms=n)
        print(found.version, flush=True)
"""


def test_a_process_that_dies_anywhere_leaves_nothing_half(new_database: Callable[[str], str], tmp_path: Path) -> None:
    "Register, activate and clean, killed again and again: every row has its whole file, one model is live, what is left over goes."
    url, rng, heard = new_database("sqlite"), random.Random(5), list[int]()
    with open_store(url, create=True):
        pass
    for life in range(4):
        words = [sys.executable, "-c", MORTAL, url, str(tmp_path), f"life {life}"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        heard.append(int(process.stdout.readline()))
        time.sleep(rng.uniform(0.0, 0.06))
        process.send_signal(signal.SIGKILL)
        heard += [int(line) for line in process.stdout.read().splitlines()]
        assert process.wait() == -signal.SIGKILL
        with open_store(url, folder=tmp_path) as store:
            kept = models_of(store)
            for model in kept:
                assert hashlib.sha256(model.path.read_bytes()).hexdigest() == model.sha256
            assert kept and live(store) in {model.version for model in kept}
            assert live(store) in (heard[-1], heard[-1] + 1)  # the newest that was told of, or one that nobody heard of
    with open_store(url, folder=tmp_path) as store:
        for path in models_folder(store).iterdir():
            os.utime(path, (0, 0))
        clean(store, keep=3, days=1, now_ms=10 * DAY)
        with store.read() as connection:
            files = set(connection.scalars(sa.select(ModelRow.file).where(ModelRow.state == "kept")))
        assert {path.name for path in models_folder(store).iterdir()} == files
    assert len(heard) == len(set(heard))


def test_a_file_that_will_not_go_is_one_line_and_the_next_attempt_ends_it(store: Store) -> None:
    first, second = (new(store, content, at=at) for content, at in ((b"one", 1), (b"two", 2)))
    paths = [model_named(store, each).path for each in (first, second)]
    for path in paths:
        path.unlink()
        path.mkdir()  # what no unlink removes, not even for root
    with pytest.raises(ModelError, match=r"cannot be removed .*model clean") as told:
        forget(store, first)
    assert "\n" not in str(told.value) and str(paths[0]) in str(told.value)
    assert clean(store, keep=9, days=1, now_ms=100 * DAY).versions == (second,)  # and what is no file is left alone
    assert all(path.is_dir() for path in paths)
    for path in paths:
        path.rmdir()
        path.symlink_to("nowhere")
    forget(store, first)
    assert not paths[0].is_symlink()
    clean(store, keep=9, days=1, now_ms=100 * DAY)
    assert not paths[1].is_symlink()
    with pytest.raises(ConfigError, match="is deleted already"):
        forget(store, first)


def test_a_clean_up_takes_what_a_dead_writer_left_and_no_backup(store: Store) -> None:
    version = new(store, b"live")
    path = model_named(store, version).path
    activate(store, version, who="me", reason="best", now_ms=11 * DAY)
    stem = "bybit_BTCUSDT_1h_v9_0123abcd.joblib"
    kept = [f"{path.name}.bak", f"{stem}.bak", f"{stem}.old", f".{stem}.bak", f"my-{path.name}.joblib", "notes.joblib"]
    ours = [stem, f".{stem}.a1b2_3d4"]
    for name in (*kept, *ours):
        (path.parent / name).write_bytes(b"x")
        os.utime(path.parent / name, (1, 1))
    (path.parent / "bybit_BTCUSDT_1h_v8_0123abcd.joblib").mkdir()
    (path.parent / "bybit_BTCUSDT_1h_v7_0123abcd.joblib").symlink_to("nowhere")
    os.utime(path.parent / "bybit_BTCUSDT_1h_v8_0123abcd.joblib", (1, 1))
    assert sorted(clean(store, keep=9, days=1, now_ms=time.time_ns() // 10**6).orphans) == sorted(ours)
    left = {each.name for each in path.parent.iterdir()}
    assert {*kept, path.name} < left and len(left) == len(kept) + 3


@pytest.mark.parametrize("days", [float("inf"), float("nan"), 0.0, -1.0, 1e300])
def test_a_clean_up_wants_a_number_of_days(store: Store, days: float) -> None:
    with pytest.raises(ConfigError, match="keeps 1 version or more and some days"):
        clean(store, keep=1, days=days, now_ms=DAY)


@pytest.mark.parametrize("until_ms", [2**63, 10**18, 253_402_300_800_000])
def test_a_model_good_beyond_every_calendar_is_refused(store: Store, until_ms: int) -> None:
    told = {"fingerprint": "f", "parameters": {}, "scores": {}, "now_ms": DAY, "timeframe": "1h"}
    with pytest.raises(ConfigError, match="year 9999"):
        register_model(store, b"x", markets=(BTC,), learned_until_ms=DAY, good_until_ms=until_ms, **told)  # type: ignore[arg-type]
    assert not models_of(store) and not models_folder(store).exists()
