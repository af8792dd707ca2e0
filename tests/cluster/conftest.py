"""One cluster for all tests: Ray takes seconds to begin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.stage import Nodes, Stage, environment, patience

PAUSE = 0.01


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray")
    with environment(RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0", RAY_USAGE_STATS_ENABLED="0"):
        nodes = Nodes(PAUSE)
        yield nodes
        nodes.close()


@pytest.fixture(scope="session")
def shared_stage(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("cluster"), nodes)


@pytest.fixture
def stage(shared_stage: Stage) -> Iterator[Stage]:
    """Two nodes; drivers lose their patience after some seconds."""
    shared_stage.nodes.have(2)
    with patience(3.0):
        yield shared_stage
