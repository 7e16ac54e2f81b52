"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from slidemaker import tissue_picture, write_slide

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that reads shared data, so that `-m shared` finds them all."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real slides and annotations; the test is skipped where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared test data at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def picture() -> NDArray[np.uint8]:
    """Real tissue on white glass, (768, 1024, 3)."""
    return tissue_picture()


@pytest.fixture(scope="session")
def slide_path(tmp_path_factory: pytest.TempPathFactory, picture: NDArray[np.uint8]) -> Path:
    """A three-level Aperio-like slide of `picture` at 0.5 um per px."""
    return write_slide(tmp_path_factory.mktemp("slides") / "tissue.svs", picture)
