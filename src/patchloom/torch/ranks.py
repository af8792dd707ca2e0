"""Which process of a distributed run this one is."""

from __future__ import annotations

import torch.distributed

from patchloom.errors import UsageError

__all__ = ["rank_and_world"]


def rank_and_world(rank: int | None, world: int | None) -> tuple[int, int]:
    """Rank and number of processes: as given, else as ``torch.distributed`` says, else 0 and 1.

    Raises
    ------
    UsageError
        If only one is given, or the rank is not below the world.
    """
    if rank is None and world is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1
    if rank is None or world is None or not 0 <= rank < world:
        raise UsageError(f"rank {rank} of {world} processes does not exist", "give both, the rank from 0 on")
    return rank, world
