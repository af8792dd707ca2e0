"""Workers on a Ray cluster: actors that take tasks and say what they have written. No pixel goes through Ray."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from patchloom.engine.cluster import Heard, Joined, Lost
from patchloom.engine.tasks import Task
from patchloom.engine.worker import Report, Setting
from patchloom.errors import MissingExtraError, UsageError

__all__ = ["Ray"]

TALK = 1.0
"""Seconds that an actor waits for something to say."""
LOOK = 5.0
"""Seconds between looks at what nodes there are."""
REACHED = 10.0
"""Seconds in which the cluster has to answer."""


@dataclass(frozen=True)
class Ray:
    """Executor that runs a pipeline in each of several Ray actors.

    Parameters
    ----------
    address
        Of the cluster, as ``ray.init`` takes it: ``"auto"``, ``"head:6379"``. None: where ``RAY_ADDRESS`` points, else
        a cluster that runs on this machine, else one that is started for the run, on this machine alone.
    workers
        How many; those for which there is no room wait for it, so nodes may come later. None: as many as there is room
        for, also on nodes that come later. ``"autoscale"``: always one more than there is room for, so that an
        autoscaler adds nodes.
    cpus_per_worker
        CPUs of each, and threads of its pipeline. None: CPUs of the cluster through `workers`, else CPUs of a node
        through its GPUs, else all of a node (the smallest one).
    gpus_per_worker
        GPUs of each. None: one where the cluster has any.
    runtime_env
        Of the actors, as Ray defines it: ``{"working_dir": …, "pip": [...], "env_vars": {…}}``.
    """

    address: str | None = None
    workers: int | Literal["autoscale"] | None = None
    cpus_per_worker: float | None = None
    gpus_per_worker: float | None = None
    runtime_env: Mapping[str, Any] = field(default_factory=dict)

    def expected(self) -> int:
        """How many workers there are going to be, about; asks the cluster where that is not given."""
        if isinstance(self.workers, int):
            return self.workers
        with_gpus = self._resources(_connected(self)[0], "auto")
        return max(1, _room(with_gpus, _nodes()))

    def start(self, setting: Setting) -> RayCluster:
        """As `Executor.start`."""
        ray, ours = _connected(self)
        resources = self._resources(ray, setting.config.device)
        threads = max(1, int(resources["num_cpus"])) if setting.config.threads == "auto" else setting.config.threads
        setting = replace(setting, config=setting.config.replace(threads=threads))
        if self.workers != "autoscale" and not _room(resources, _nodes()):
            raise UsageError(f"no node of the Ray cluster has {resources['num_cpus']:g} CPUs and "
                             f"{resources['num_gpus']:g} GPUs for a worker", "fewer cpus_per_worker, gpus_per_worker")

        def wanted() -> int:
            if isinstance(self.workers, int):
                return self.workers
            return _room(resources, _nodes()) + (self.workers == "autoscale")

        return RayCluster(ray, setting, resources | {"runtime_env": dict(self.runtime_env)}, wanted, ours=ours)

    def _resources(self, ray: Any, device: str) -> dict[str, Any]:
        """What each actor asks for."""
        nodes = _nodes()
        gpus, cpus = (sum(node.get(name, 0) for node in nodes) for name in ("GPU", "CPU"))
        each = self.gpus_per_worker if self.gpus_per_worker is not None else float(gpus > 0 and device != "cpu")
        if self.cpus_per_worker is not None:
            share = self.cpus_per_worker
        else:
            most = min((node["CPU"] for node in nodes if node.get("CPU")), default=1)
            workers = self.workers if isinstance(self.workers, int) else gpus / each if each else len(nodes)
            share = min(most, max(1, cpus // max(1, workers)))
        return {"num_cpus": share, "num_gpus": each}


class RayCluster:
    """Actors of one run; those that end are replaced while there are nodes for them.

    Parameters
    ----------
    resources
        Options of the actors.
    wanted
        How many there are to be, now.
    ours
        Whether Ray was started for this run.
    """

    def __init__(
        self, ray: Any, setting: Setting, resources: Mapping[str, Any], wanted: Callable[[], int], *, ours: bool
    ) -> None:
        self._ray, self._resources, self._wanted, self._ours = ray, resources, wanted, ours
        self._setting = ray.put(setting)
        self._class = ray.remote(_Actor)
        self._actors: dict[str, Any] = {}
        self._beginning: dict[Any, Any] = {}
        self._talking: dict[Any, str] = {}
        self._refused = 0
        self._looked = float("-inf")

    def submit(self, worker: str, tasks: Sequence[Task]) -> None:
        """As `Cluster.submit`."""
        self._actors[worker].submit.remote(list(tasks))

    def wait(self, seconds: float) -> list[Joined | Heard | Lost]:
        """As `Cluster.wait`."""
        self._start_missing()
        refs = [*self._beginning, *self._talking]
        if not refs:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(refs, num_returns=1, timeout=seconds)
        if ready:
            ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        return [self._begun(ref) if ref in self._beginning else self._said(ref) for ref in ready]

    def kill(self, worker: str) -> None:
        """As `Cluster.kill`."""
        if worker in self._actors:  # it may be gone already
            self._ray.kill(self._actors[worker])

    def stop(self) -> None:
        """As `Cluster.stop`."""
        self._wanted = lambda: 0
        for actor in self._beginning.values():
            self._ray.kill(actor)
        self._beginning.clear()
        for actor in self._actors.values():
            actor.stop.remote()

    def close(self) -> None:
        """As `Cluster.close`; a second time does nothing."""
        actors, self._actors, self._beginning = [*self._actors.values(), *self._beginning.values()], {}, {}
        for actor in actors:
            self._ray.kill(actor)
        if self._ours:
            self._ours = False
            self._ray.shutdown()

    def _start_missing(self) -> None:
        if time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        for _ in range(self._wanted() - len(self._actors) - len(self._beginning) - self._refused):
            actor = self._class.options(max_concurrency=3, **self._resources).remote()
            self._beginning[actor.begin.remote(self._setting)] = actor

    def _begun(self, ref: Any) -> Joined | Lost:
        actor = self._beginning.pop(ref)
        try:
            name, error = self._ray.get(ref)
        except self._ray.exceptions.RayError as raised:
            return Lost("", _reason(raised))
        if error is not None:
            self._refused += 1  # it would be the same again
            self._ray.kill(actor)
            return Lost("", f"{name}: {error}", error)
        self._actors[name] = actor
        self._talking[actor.collect.remote(TALK)] = name
        return Joined(name)

    def _said(self, ref: Any) -> Heard | Lost:
        name = self._talking.pop(ref)
        try:
            report = self._ray.get(ref)
        except self._ray.exceptions.RayError as raised:
            del self._actors[name]
            self._looked = float("-inf")
            return Lost(name, _reason(raised))
        if not report.ended:
            self._talking[self._actors[name].collect.remote(TALK)] = name
        return Heard(name, report)


class _Actor:
    """What Ray runs: a worker, three methods of which are called at once."""

    def begin(self, setting: Setting) -> tuple[str, Exception | None]:
        name = f"{socket.gethostname()}/{os.getpid()}"
        try:
            self._worker = setting.start()
        except Exception as error:
            return name, error
        return name, None

    def submit(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self._worker.submit(task)

    def collect(self, seconds: float) -> Report:
        return self._worker.collect(seconds)

    def stop(self) -> None:
        self._worker.stop()


def _connected(executor: Ray) -> tuple[Any, bool]:
    """Ray, and whether it was started here and now."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray is going to do by itself
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError.of("ray", "ray", "executor ray") from error
    if ray.is_initialized():
        return ray, False
    try:
        _check_reachable(executor.address)
        ray.init(address=executor.address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        where = executor.address or os.environ.get("RAY_ADDRESS") or "the address that the last `ray start` left"
        hint = "`ray start --head` starts one, `ray stop` forgets one that is gone"
        if "AuthToken" in str(error.__cause__):
            hint = "it asks for a token: RAY_AUTH_MODE=token, and its ~/.ray/auth_token"
        raise UsageError(f"no Ray cluster at {where}: {error}", hint) from None
    return ray, True


def _check_reachable(address: str | None) -> None:
    """Raise OSError where nobody listens: Ray itself would try for a quarter of an hour."""
    from ray._private.services import canonicalize_bootstrap_address

    found = canonicalize_bootstrap_address(address)
    if found is not None:
        host, _, port = found.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), REACHED).close()


def _nodes() -> list[Mapping[str, float]]:
    """Resources of each node that is alive."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _room(resources: Mapping[str, Any], nodes: Sequence[Mapping[str, float]]) -> int:
    """How many workers fit on nodes."""
    asked = {"CPU": resources["num_cpus"], "GPU": resources["num_gpus"]}
    return sum(int(min(node.get(name, 0) // each for name, each in asked.items() if each)) for node in nodes)


def _reason(error: BaseException) -> str:
    """Why an actor is gone: the first and the last line of what Ray says, without colours."""
    lines = [line.strip() for line in re.sub(r"\x1b\[\d*m", "", str(error)).splitlines() if line.strip()]
    return ": ".join(dict.fromkeys([*lines[:1], *lines[-1:]]))[:300]
