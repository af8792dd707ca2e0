"""A Ray cluster of two nodes on this machine, for as long as the demonstration takes."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from patchloom.errors import MissingExtraError, RunError

__all__ = ["two_nodes"]

RAY = (sys.executable, "-m", "ray.scripts.scripts")
STARTED = "Ray runtime started"
"""What `ray start` says when a node is there."""
ENDING = 30.0
"""Seconds that a node has to end."""


@contextmanager
def two_nodes() -> Iterator[dict[str, str]]:
    """A cluster of two nodes, each with half of the machine's cores; both end with the context.

    It asks for a token, or whoever reaches its port could run code.

    Yields
    ------
    dict
        Environment variables by which processes of this user find it.

    Raises
    ------
    MissingExtraError
        If Ray is not installed.
    RunError
        If a node does not start.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError.of("ray", "ray", "a cluster")
    variables = {"RAY_AUTH_MODE": "token"}
    subprocess.run([*RAY, "get-auth-token", "--generate"], capture_output=True, check=False)
    address = f"127.0.0.1:{_free_port()}"
    head = ("--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false")
    nodes: list[subprocess.Popen[str]] = []
    try:
        for role in (head, (f"--address={address}",)):
            nodes.append(_start(variables, *role, f"--num-cpus={max(1, (os.cpu_count() or 2) // 2)}"))
            _wait_for(nodes[-1])
        yield variables | {"RAY_ADDRESS": address}
    finally:
        for node in reversed(nodes):
            _end(node)


def _start(variables: dict[str, str], *options: str) -> subprocess.Popen[str]:
    # Elsewhere than on Linux Ray has to be told that several nodes on one machine are meant.
    environment = os.environ | variables | {"PYTHONUNBUFFERED": "1", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
    command = [*RAY, "start", *options, "--block", "--disable-usage-stats"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True)  # Ctrl-C is for the run, which ends before its cluster


def _wait_for(node: subprocess.Popen[str]) -> None:
    said = []
    assert node.stdout is not None
    for line in node.stdout:
        said.append(line.strip())
        if STARTED in line:
            return
    raise RunError(f"a node of the cluster did not start: {' '.join(said)[-300:]}", "does `ray start --head` work?")


def _end(node: subprocess.Popen[str]) -> None:
    node.terminate()
    try:
        node.communicate(timeout=ENDING)
    except subprocess.TimeoutExpired:
        node.kill()
        node.communicate()


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
