"""How long the random tests are: a few cases of each in `make test`, the whole series in `make soak`."""

import os

IS_SOAK = os.environ.get("AUTOTRADER_SOAK") == "1"


def length(few: int, *, soak: int) -> int:
    "How many cases, seeds or examples a random test draws."
    return soak if IS_SOAK else few
