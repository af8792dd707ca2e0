"""Whatever goes wrong on the cluster, the run is what the local executor makes of it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence

import pytest

from patchloom.events import Event, WorkerJoined
from tests.cluster.failures import FAILURES, Failure, deadly_image
from tests.cluster.models import PAUSE
from tests.cluster.stage import Stage, check_same, is_gone

QUICK = (deadly_image,)
"""What is tried each time: workers die, and are replaced, several times. The others take minutes."""


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


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_several_accidents_at_random(seed: int, stage: Stage) -> None:
    """Workers are killed or stopped at any moment, also those that took the place of others."""
    stage.nodes.have(3)
    drawn = random.Random(seed)
    hit: set[int] = set()

    def accidents(events: Sequence[Event]) -> None:
        for _ in range(4):
            time.sleep(drawn.uniform(0.1, 2.0))
            there = [int(event.worker.rpartition("/")[2]) for event in listened if isinstance(event, WorkerJoined)]
            pid = drawn.choice([pid for pid in there if pid not in hit and not is_gone(pid, 0)] or [0])
            if pid:
                hit.add(pid)
                os.kill(pid, drawn.choice([signal.SIGKILL, signal.SIGSTOP]))

    listened: list[Event] = []
    slowly = {"env_vars": {PAUSE: "0.05"}}
    trial = stage.predict(accidents, units=1, runtime_env=slowly, events=listened)
    assert hit
    assert all(is_gone(pid) for pid in hit)
    check_same(trial.run, stage.local())
