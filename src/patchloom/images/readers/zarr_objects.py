"""Objects as zarr-python's store: counted, and with errors that hold no secrets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from zarr.storage import ObjectStore

from patchloom.connections import explained
from patchloom.objects import ObjectPath, traffic

__all__ = ["ReadObjects"]


class ReadObjects(ObjectStore[Any]):
    """The bucket or server of an object; it is only read."""

    def __init__(self, path: ObjectPath) -> None:
        super().__init__(path.opened_store()[0], read_only=True)
        self._path = path

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """See `zarr.abc.store.Store.get`."""
        try:
            found = await super().get(key, prototype, byte_range)
        except Exception as error:
            if not type(error).__module__.startswith("obstore"):
                raise
            raise explained(error, self._path) from None
        traffic.add(read=0 if found is None else len(found))
        return found

    async def get_partial_values(
        self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]
    ) -> list[Any]:
        """See `zarr.abc.store.Store.get_partial_values`."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))
