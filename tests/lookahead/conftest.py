"""Lets the tests of this folder import `harness`, which is theirs and no part of the package, and register columns of their own."""

import sys
from pathlib import Path

import pytest

from autotrader.features import columns as registry

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def more_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    "What a test registers is gone after it; the house's own columns are there before."
    registry.columns()
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
