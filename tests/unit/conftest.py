"What the modules of this folder share."

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    "Address of a Dask cluster of two workers."
    from test_executor import cluster

    with cluster(tmp_path_factory.mktemp("dask")) as running:
        yield running.address
