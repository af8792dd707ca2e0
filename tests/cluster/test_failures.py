"""Whatever goes wrong on the cluster, the run is what the local executor makes of it."""

from __future__ import annotations

import pytest

from tests.cluster.failures import FAILURES, Failure, killed
from tests.cluster.stage import Stage, check_same

QUICK = (killed,)
"""Those that are tried each time; the others take minutes."""


def check(failure: Failure, stage: Stage, blend: str) -> None:
    outcome = failure.make(stage, blend)
    check_same(outcome.run, stage.local(blend=blend), exact=blend == "crop", failed=outcome.failed)


@pytest.mark.parametrize(
    "failure",
    [pytest.param(one, id=one.make.__name__, marks=() if one.make in QUICK else pytest.mark.slow) for one in FAILURES],
)
def test_the_result_is_that_of_a_local_run(failure: Failure, stage: Stage) -> None:
    check(failure, stage, "crop")


@pytest.mark.slow
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.make.__name__)
def test_the_result_is_that_of_a_local_run_with_blending(failure: Failure, stage: Stage) -> None:
    check(failure, stage, "gaussian")
