"""The README's picture of the dashboard: it is there, it is small, and it can be drawn again from what the house does today."""

import importlib.util
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 300_000


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("screenshot", ROOT / "tools" / "screenshot.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def size_of(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def test_the_committed_picture_is_one_and_small(tool: ModuleType) -> None:
    picture = tool.PICTURE.read_bytes()
    assert size_of(picture) == (tool.WIDTH, tool.HEIGHT) == (1280, 800)
    assert len(picture) <= MOST_BYTES


def test_it_can_be_drawn_again(tool: ModuleType, browser: Any) -> None:
    picture = tool.drawn(browser)
    assert size_of(picture) == (tool.WIDTH, tool.HEIGHT)
    assert 40_000 < len(picture) <= MOST_BYTES  # an empty page is smaller
