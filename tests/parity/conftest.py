"""Lets the tests of this folder import `reference` and `cases`, which are theirs and no part of the package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
