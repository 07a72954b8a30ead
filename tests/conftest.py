"""What every test stands on: no outside connection, seeded properties, recorded data only where there is any."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from autotrader.core.offline import install

os.environ["AUTOTRADER_OFFLINE"] = "1"
install()  # this process; the ones it starts inherit the variable

settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")

ROOT = Path(__file__).resolve().parent.parent


def recorded_data() -> Path | None:
    "Folder with the recorded market data, which is not part of this repository."
    named = os.environ.get("AUTOTRADER_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def data_dir() -> Path:
    "Recorded market data; the test is skipped without it, on the build server it fails."
    folder = recorded_data()
    if folder is None:
        message = "no recorded market data: set AUTOTRADER_DATA to its folder"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    "The repository."
    return ROOT
