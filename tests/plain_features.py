"""The features of the set that have a plain form in pandas, written as their definitions say: what ours are checked against, and raced against."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from autotrader.core.market import Candles

Form = Callable[[pd.DataFrame], pd.Series]


def frame_of(candles: Candles) -> pd.DataFrame:
    "Prices, volume, and what is joined, by the open of the bar; `attrs` knows how long one is."
    frame = candles.to_frame()
    frame.attrs["bar"] = pd.Timedelta(candles.bar_ms, "ms")
    return frame


def returns(f: pd.DataFrame) -> pd.Series:
    return np.log(f.close).diff()


def true_range(f: pd.DataFrame) -> pd.Series:
    before = f.close.shift()
    return np.maximum(f.high, before) - np.minimum(f.low, before)


def wilder(values: pd.Series, n: int) -> pd.Series:
    return values.ewm(alpha=1 / n, adjust=False).mean()


def ema(values: pd.Series, n: int) -> pd.Series:
    return values.ewm(span=n, adjust=False).mean()


def atr(f: pd.DataFrame, n: int) -> pd.Series:
    return wilder(true_range(f), n)


def score(values: pd.Series, n: int) -> pd.Series:
    window = values.rolling(n)
    return (values - window.mean()) / window.std(ddof=0)


def per_year(f: pd.DataFrame, squares: pd.Series, n: int) -> pd.Series:
    return np.sqrt(squares.rolling(n).mean() * (pd.Timedelta(365, "D") / f.attrs["bar"]))


def price(f: pd.DataFrame, n: int) -> pd.Series:
    return np.log(f.close / f.close.shift(n))


def return_score(f: pd.DataFrame, n: int, usual: int) -> pd.Series:
    return price(f, n) / np.sqrt(n * (returns(f) ** 2).rolling(usual).mean())


def distance_atr(f: pd.DataFrame, n: int, m: int) -> pd.Series:
    return (f.close - ema(f.close, n)) / atr(f, m)


def channel_position(f: pd.DataFrame, n: int) -> pd.Series:
    top, bottom = f.high.rolling(n).max().shift(), f.low.rolling(n).min().shift()
    return 100 * (2 * f.close - top - bottom) / (top - bottom)


def parkinson(f: pd.DataFrame, n: int) -> pd.Series:
    return per_year(f, np.log(f.high / f.low) ** 2 / (4 * np.log(2)), n)


def realised(f: pd.DataFrame, n: int) -> pd.Series:
    return per_year(f, returns(f) ** 2, n)


def garman_klass(f: pd.DataFrame, n: int) -> pd.Series:
    bodies = np.log(f.close / f.open)
    return per_year(f, np.log(f.high / f.low) ** 2 / 2 - (2 * np.log(2) - 1) * bodies**2, n)


def volatility_ratio(f: pd.DataFrame, fast: int, slow: int) -> pd.Series:
    return realised(f, fast) / realised(f, slow)


def downside_share(f: pd.DataFrame, n: int) -> pd.Series:
    r = returns(f)
    return 100 * (r.clip(upper=0) ** 2).rolling(n).sum() / (r**2).rolling(n).sum()


def largest_share(f: pd.DataFrame, n: int) -> pd.Series:
    window = (returns(f) ** 2).rolling(n)
    return 100 * window.max() / window.sum()


def skewness(f: pd.DataFrame, n: int) -> pd.Series:
    r = returns(f)
    return (r**3).rolling(n).mean() / (r**2).rolling(n).mean() ** 1.5


def bollinger_width(f: pd.DataFrame, n: int) -> pd.Series:
    window = f.close.rolling(n)
    return 400 * window.std(ddof=0) / window.mean()


def natr(f: pd.DataFrame, n: int) -> pd.Series:
    return 100 * atr(f, n) / f.close


def pvo(f: pd.DataFrame, fast: int, slow: int) -> pd.Series:
    return 100 * (ema(f.volume, fast) / ema(f.volume, slow) - 1)


def cmf(f: pd.DataFrame, n: int) -> pd.Series:
    flow = f.volume * ((f.close - f.low) - (f.high - f.close)) / (f.high - f.low)
    return flow.rolling(n).sum() / f.volume.rolling(n).sum()


def mfi(f: pd.DataFrame, n: int) -> pd.Series:
    typical = (f.high + f.low + f.close) / 3
    money, moved = typical * f.volume, typical.diff()
    up, down = money.where(moved > 0, 0.0).rolling(n).sum(), money.where(moved < 0, 0.0).rolling(n).sum()
    return 100 * up / (up + down)


def obv_share(f: pd.DataFrame, n: int) -> pd.Series:
    return 100 * (np.sign(f.close.diff()) * f.volume).rolling(n).sum() / f.volume.rolling(n).sum()


def vwap_distance(f: pd.DataFrame, n: int, m: int) -> pd.Series:
    typical = (f.high + f.low + f.close) / 3
    return (f.close - (typical * f.volume).rolling(n).sum() / f.volume.rolling(n).sum()) / atr(f, m)


def illiquidity(f: pd.DataFrame, fast: int, slow: int) -> pd.Series:
    way, money = returns(f).abs(), f.close * f.volume
    now, usual = (way.rolling(n).sum() / money.rolling(n).sum() for n in (fast, slow))
    return now / usual


def volume_efficiency(f: pd.DataFrame, n: int) -> pd.Series:
    r = returns(f)
    return (r * f.volume).rolling(n).sum() / (r.abs() * f.volume).rolling(n).sum()


def interest_correlation(f: pd.DataFrame, n: int) -> pd.Series:
    changes = np.log(f.open_interest).diff()
    return returns(f).where(changes.notna()).rolling(n).corr(changes)


def holed(f: pd.DataFrame, one: str, other: str, sign: int, n: int) -> pd.Series:
    known = f[one].notna() & f[other].notna()
    return score(f[one].where(known), n) + sign * score(f[other].where(known), n)


def directions(f: pd.DataFrame, n: int) -> tuple[pd.Series, pd.Series]:
    up, down = f.high.diff(), -f.low.diff()
    range_ = atr(f, n)
    plus = wilder(up.where((up > down) & (up > 0), 0.0), n)
    minus = wilder(down.where((down > up) & (down > 0), 0.0), n)
    return 100 * plus / range_, 100 * minus / range_


def di_balance(f: pd.DataFrame, n: int) -> pd.Series:
    plus, minus = directions(f, n)
    return plus - minus


def adx(f: pd.DataFrame, n: int) -> pd.Series:
    plus, minus = directions(f, n)
    return wilder(100 * (plus - minus).abs() / (plus + minus), n)


def efficiency(f: pd.DataFrame, n: int) -> pd.Series:
    return f.close.diff(n).abs() / f.close.diff().abs().rolling(n).sum()


def trend_correlation(f: pd.DataFrame, n: int) -> pd.Series:
    return f.close.rolling(n).corr(pd.Series(np.arange(float(len(f))), index=f.index))


def signed_efficiency(f: pd.DataFrame, n: int) -> pd.Series:
    r = returns(f)
    return r.rolling(n).sum() / r.abs().rolling(n).sum()


def choppiness(f: pd.DataFrame, n: int) -> pd.Series:
    reach = f.high.rolling(n).max() - f.low.rolling(n).min()
    return 100 * np.log(true_range(f).rolling(n).sum() / reach) / np.log(n)


def variance_ratio(f: pd.DataFrame, n: int, lag: int) -> pd.Series:
    return (price(f, lag) ** 2).rolling(n).sum() / (lag * (returns(f) ** 2).rolling(n).sum())


def of_day(f: pd.DataFrame, function: Callable[..., pd.Series]) -> pd.Series:
    midnight = f.index.normalize()
    return pd.Series(function(2 * np.pi * ((f.index - midnight) / pd.Timedelta(1, "D"))), index=f.index)


def of_week(f: pd.DataFrame, function: Callable[..., pd.Series]) -> pd.Series:
    days = f.index.day_of_week + (f.index - f.index.normalize()) / pd.Timedelta(1, "D")
    return pd.Series(function(2 * np.pi * days / 7), index=f.index)


def rsi(f: pd.DataFrame, n: int) -> pd.Series:
    moved = f.close.diff()
    up, down = wilder(moved.clip(lower=0), n), wilder((-moved).clip(lower=0), n)
    return 100 * up / (up + down)


def stoch_k(f: pd.DataFrame, k: int, smooth: int, _d: int) -> pd.Series:
    low, high = f.low.rolling(k).min(), f.high.rolling(k).max()
    return (100 * (f.close - low) / (high - low)).rolling(smooth).mean()


def tsi(f: pd.DataFrame, slow: int, fast: int) -> pd.Series:
    moved = f.close.diff().iloc[1:]
    found = 100 * ema(ema(moved, slow), fast) / ema(ema(moved.abs(), slow), fast)
    return found.reindex(f.index)


def ppo(f: pd.DataFrame, fast: int, slow: int) -> pd.Series:
    return 100 * (ema(f.close, fast) / ema(f.close, slow) - 1)


def trix(f: pd.DataFrame, n: int) -> pd.Series:
    return 100 * ema(ema(ema(f.close, n), n), n).pct_change()


def macd_atr(f: pd.DataFrame, fast: int, slow: int, signal: int, n: int) -> pd.Series:
    macd = ema(f.close, fast) - ema(f.close, slow)
    return (macd - ema(macd, signal)) / atr(f, n)


def slope_atr(f: pd.DataFrame, n: int, m: int) -> pd.Series:
    time = pd.Series(np.arange(float(len(f))), index=f.index)
    slope = f.close.rolling(n).cov(time, ddof=0) / ((n * n - 1) / 12)
    return (n - 1) * slope / atr(f, m)


def up_share(f: pd.DataFrame, n: int) -> pd.Series:
    side = np.sign(f.close.diff())
    return 100 * (side > 0).rolling(n).sum() / side.abs().rolling(n).sum()


def streak(f: pd.DataFrame, limit: int) -> pd.Series:
    side = np.sign(f.close.diff())
    row = side.groupby((side != side.shift()).cumsum()).cumcount() + 1
    return side * row.clip(upper=limit)


def inside_bar(f: pd.DataFrame) -> pd.Series:
    above, below = f.high > f.high.shift(), f.low < f.low.shift()
    return 0.0 + (~above & ~below) - (above & below)


def long_bars(f: pd.DataFrame, every: int) -> pd.DataFrame:
    "Whole bars `every` times as long, by their close."
    length = every * f.attrs["bar"]
    how = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    grouped = f.resample(length, origin="epoch")
    bars = grouped.agg(how)[grouped.close.count() == every]
    bars.index = bars.index + length
    bars.attrs["bar"] = length
    return bars


def longer(f: pd.DataFrame, every: int, form: Form) -> pd.Series:
    "As known at the close of each bar."
    found = form(long_bars(f, every))
    return pd.Series(found.reindex(f.index + f.attrs["bar"], method="ffill").to_numpy(), index=f.index)


def _forms() -> dict[str, Form]:
    forms: dict[str, Form] = {}

    def add(function: Callable[..., pd.Series], name: str, *lengths: tuple[int, ...]) -> None:
        for each in lengths:
            forms["_".join([name, *map(str, each)])] = lambda f, each=each: function(f, *each)

    add(price, "log_return", (1,), (4,), (24,), (168,))
    add(return_score, "return_score", (24, 168))
    add(lambda f, n: score(f.close, n), "zscore", (20,))
    add(distance_atr, "distance_atr", (20, 14), (100, 14))
    add(channel_position, "channel_position", (24,), (168,))
    add(lambda f, n: f.close / f.close.rolling(n).max() - 1, "drawdown", (168,))
    add(lambda f, n: f.close / f.close.rolling(n).min() - 1, "runup", (168,))
    add(natr, "natr", (14,))
    add(realised, "realised_volatility", (24,))
    add(parkinson, "parkinson", (24,))
    add(garman_klass, "garman_klass", (24,))
    add(volatility_ratio, "volatility_ratio", (24, 168))
    add(lambda f, n, m: score(natr(f, m), n), "volatility_zscore", (168, 14))
    add(lambda f, n: parkinson(f, n) / realised(f, n), "range_ratio", (24,))
    add(downside_share, "downside_share", (72,))
    add(largest_share, "largest_share", (72,))
    add(skewness, "skewness", (168,))
    add(bollinger_width, "bollinger_width", (20,))
    add(lambda f, n: f.volume / f.volume.rolling(n).mean().shift(), "rvol", (24,))
    add(lambda f, n: score(f.volume, n), "volume_zscore", (168,))
    add(pvo, "pvo", (12, 26))
    add(cmf, "cmf", (24,))
    add(mfi, "mfi", (14,))
    add(obv_share, "obv_share", (24,))
    add(vwap_distance, "vwap_distance_atr", (24, 14), (168, 14))
    add(lambda f: f.funding_rate, "funding_rate", ())
    add(lambda f, n: f.funding_rate.rolling(n).mean(), "funding_mean", (24,), (168,))
    add(lambda f, n: f.funding_rate.diff(n), "funding_change", (24,))
    add(lambda f, n: score(f.funding_rate, n), "funding_zscore", (168,), (480,))
    add(lambda f, n: f.open_interest.pct_change(n, fill_method=None), "open_interest_change", (4,), (24,), (168,))
    add(lambda f, n: score(f.open_interest, n), "open_interest_zscore", (168,))
    add(lambda f, n: f.open_interest / f.open_interest.rolling(n).max() - 1, "open_interest_drawdown", (72,))
    add(interest_correlation, "interest_correlation", (72,))
    add(lambda f, n: holed(f, "close", "open_interest", -1, n), "interest_divergence", (168,))
    add(lambda f, n: holed(f, "close", "funding_rate", -1, n), "funding_divergence", (168,))
    add(lambda f, n: holed(f, "funding_rate", "open_interest", 1, n), "crowding", (168,))
    add(lambda f, n, m: 2 * f.close.rolling(n).std(ddof=0) / (1.5 * atr(f, m)), "squeeze", (20, 14))
    add(illiquidity, "illiquidity", (24, 168))
    add(volume_efficiency, "volume_efficiency", (24,))
    add(lambda f, n: returns(f).abs().rolling(n).corr(f.volume), "volume_correlation", (72,))
    add(adx, "adx", (14,))
    add(efficiency, "er", (24,))
    add(trend_correlation, "trend_correlation", (24,), (168,))
    add(signed_efficiency, "signed_efficiency", (72,))
    add(choppiness, "choppiness", (24,))
    add(lambda f, n: returns(f).rolling(n).corr(returns(f).shift()), "autocorrelation", (72,))
    add(variance_ratio, "variance_ratio", (168, 8))
    add(partial(of_day, function=np.sin), "hour_sine", ())
    add(partial(of_day, function=np.cos), "hour_cosine", ())
    add(partial(of_week, function=np.sin), "weekday_sine", ())
    add(partial(of_week, function=np.cos), "weekday_cosine", ())
    add(rsi, "rsi", (14,))
    add(stoch_k, "stoch_k", (14, 3, 3))
    add(tsi, "tsi", (25, 13))
    add(ppo, "ppo", (12, 26))
    add(trix, "trix", (15,))
    add(macd_atr, "macd_atr", (12, 26, 9, 14))
    add(di_balance, "di_balance", (14,))
    add(slope_atr, "slope_atr", (24, 14))
    add(up_share, "up_share", (24,))
    add(lambda f: (f.close - f.open) / (f.high - f.low), "bop", ())
    add(lambda f: 100 * (f.high - np.maximum(f.open, f.close)) / (f.high - f.low), "upper_shadow", ())
    add(lambda f: 100 * (np.minimum(f.open, f.close) - f.low) / (f.high - f.low), "lower_shadow", ())
    add(lambda f, n: (f.close - f.open) / atr(f, n), "body_atr", (14,))
    add(lambda f, n: true_range(f) / atr(f, n), "range_atr", (14,))
    add(streak, "streak", (20,))
    add(inside_bar, "inside_bar", ())
    for label, every, form in (
        ("log_return_20@24", 24, lambda f: price(f, 20)),
        ("zscore_20@24", 24, lambda f: score(f.close, 20)),
        ("distance_atr_5_5@24", 24, lambda f: distance_atr(f, 5, 5)),
        ("volatility_ratio_5_20@24", 24, lambda f: volatility_ratio(f, 5, 20)),
        ("adx_14@4", 4, lambda f: adx(f, 14)),
        ("er_10@24", 24, lambda f: efficiency(f, 10)),
        ("rsi_14@4", 4, lambda f: rsi(f, 14)),
        ("rsi_5@24", 24, lambda f: rsi(f, 5)),
    ):
        forms[label] = partial(longer, every=every, form=form)
    return forms


PLAIN: dict[str, Form] = _forms()  # by label
