"""Everything that goes wrong on a cluster, made to happen on three nodes of this machine: the table of docs/cluster.md.

Each row is a run that is disturbed; it is compared with a local run, maps byte by byte (with weighted blending: to
1e-5). Seconds are those of the run with all its sessions, beside those of an undisturbed one; most of what a failure
takes longer is patience: 10 seconds until a worker that says nothing is believed to hang, and some seconds until Ray
has another process ready.

    python benchmarks/failures.py [--pause 0.04]
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # what the tests do is not written twice

from tests.cluster.failures import FAILURES, Failure
from tests.cluster.stage import Nodes, Stage, check_same, environment

NODES = 3
BLENDS = {"crop": "bytes", "gaussian": "1e-5"}


def row(failure: Failure, stage: Stage, undisturbed: float) -> tuple[str, float]:
    """A row of the table, and the seconds of the run with `crop`."""
    cells, seconds = [], 0.0
    happened = failed = ""
    for blend, how in BLENDS.items():
        stage.nodes.have(NODES)
        outcome = failure.make(stage, blend)
        seconds = seconds or outcome.seconds
        happened = happened or outcome.happened
        try:
            check_same(outcome.run, stage.local(blend=blend), exact=blend == "crop", failed=outcome.failed)
            cells.append(f"yes ({how})")
        except AssertionError as error:
            cells.append("no")
            failed = failed or str(error).splitlines()[0]
        verified = "clean" if outcome.run.verify() == [] else "damaged"
    slower = f" ({seconds - undisturbed:+.0f})" if undisturbed and outcome.alike else ""
    equal = ", ".join(cells) + (f": {failed}" if failed else "")
    return f"| {failure.name} | {happened} | {seconds:.0f}{slower} | {equal} | {verified} |", seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pause", type=float, default=0.04, help="seconds that the model takes for a patch")
    arguments = parser.parse_args()
    begin, undisturbed = time.monotonic(), 0.0
    with environment(RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0", RAY_USAGE_STATS_ENABLED="0"):
        nodes = Nodes(arguments.pause)
        nodes.have(NODES)
        table = sys.stdout
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):  # Ray tells of each death
            stage = Stage(Path(folder), nodes)
            print("| what goes wrong | what happens | seconds | equal to the local run | `verify` |", file=table)
            print("| --- | --- | ---: | --- | --- |", file=table)
            for failure in FAILURES:
                text, seconds = row(failure, stage, undisturbed)
                undisturbed = undisturbed or seconds
                print(text, file=table, flush=True)
            nodes.close()
    print(f"\n{time.monotonic() - begin:.0f} seconds in all", file=sys.stderr)


if __name__ == "__main__":
    main()
