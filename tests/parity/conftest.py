"""Lets the tests of this folder import what stands beside them, which is theirs and no part of the package."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("oracle", "pair", "projected")
