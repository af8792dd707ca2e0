"""How many workers there is room for, and what each of them gets: told from the nodes, without any cluster."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from patchloom.engine import ray as adapter
from patchloom.engine.cluster import Executor
from patchloom.engine.ray import Ray

GPU_NODES = [{"CPU": 4.0}, {"CPU": 32.0, "GPU": 2.0}, {"CPU": 32.0, "GPU": 2.0}]
CPU_NODES = [{"CPU": 8.0}, {"CPU": 16.0}, {"object_store_memory": 1.0}]


def resources(
    executor: Ray, nodes: list[Mapping[str, float]], monkeypatch: pytest.MonkeyPatch, device: str = "auto"
) -> tuple[float, float, int]:
    """CPUs and GPUs of each worker, and for how many there is room."""
    monkeypatch.setattr(adapter, "_nodes", lambda: nodes)
    asked = executor._resources(None, device)
    return asked["num_cpus"], asked["num_gpus"], adapter._room(asked, nodes)


@pytest.mark.parametrize(
    ("executor", "nodes", "device", "expected"),
    [
        (Ray(), CPU_NODES, "auto", (8, 0, 3)),
        (Ray(workers=4), CPU_NODES, "auto", (6, 0, 3)),
        (Ray(workers=24), CPU_NODES, "auto", (1, 0, 24)),
        (Ray(workers=100), CPU_NODES, "auto", (1, 0, 24)),
        (Ray(cpus_per_worker=5), CPU_NODES, "auto", (5, 0, 4)),
        (Ray(workers=4), GPU_NODES, "auto", (4, 1, 4)),
        (Ray(workers=4), GPU_NODES, "cpu", (4, 0, 17)),
        (Ray(gpus_per_worker=0.5), GPU_NODES, "auto", (4, 0.5, 8)),
        (Ray(workers="autoscale", cpus_per_worker=8, gpus_per_worker=1), [], "auto", (8, 1, 0)),
    ],
)
def test_resources_follow_from_the_nodes(
    executor: Ray, nodes: list[Mapping[str, float]], device: str, expected: tuple[float, float, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert resources(executor, nodes, monkeypatch, device) == expected


def test_it_is_an_executor_and_a_value() -> None:
    assert isinstance(Ray(), Executor)
    assert eval(repr(Ray(workers=2, runtime_env={"pip": ["x"]}))) == Ray(workers=2, runtime_env={"pip": ["x"]})


def test_why_an_actor_is_gone_is_one_line() -> None:
    error = RuntimeError("The actor died.\n  File x\n\x1b[36mValueError\x1b[39m: no such thing\n")
    assert adapter._reason(error) == "The actor died.: ValueError: no such thing"
    assert len(adapter._reason(RuntimeError("x" * 1000))) == 300
