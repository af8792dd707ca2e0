"""The run's folder: what it is a run of, and the names of its parts."""

from __future__ import annotations

import json
import time
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from patchloom import __version__
from patchloom.config import LIVE, Config
from patchloom.errors import ConfigMismatchError, RunDamagedError, RunError, RunNotFoundError, UsageError
from patchloom.models.identity import live_identity
from patchloom.models.model import Head
from patchloom.objects import AnyPath
from patchloom.predictions.files import write_file
from patchloom.predictions.layout import FORMAT, RunLayout, digest, fingerprint, heads_from_json, heads_to_json

__all__ = ["RunDocument"]


@dataclass(frozen=True)
class RunDocument:
    """``run.json``: written once, when the run begins.

    Parameters
    ----------
    config
        Options; `patch` is set.
    source
        What rebuilds the source, or None where it cannot be rebuilt (arrays).
    model
        ``spec`` (a path or ``module:function``, a list of them for an ensemble, None for a live model), ``name`` and
        ``identity``.
    ndim, heads, unit_width
        See `RunLayout`.
    channels, image_dtype
        Of the pixels that the model is given.
    whole
        See `RunLayout`.
    id
        Of this run and no other: what stores know it by.
    hook, filter
        Identity of a `preprocess` function, and of a `skip` filter, that were given as objects.
    """

    config: Config
    source: Mapping[str, Any] | None
    model: Mapping[str, Any]
    ndim: int
    heads: tuple[Head, ...]
    unit_width: int | None
    channels: int
    image_dtype: str
    hook: str | None = None
    filter: str | None = None
    whole: tuple[int, ...] | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex, compare=False)

    def layout(self, folder: AnyPath) -> RunLayout:
        """Geometry and files of the run."""
        return RunLayout(folder, self.config, self.ndim, self.heads, self.unit_width, self.whole)

    def write(self, folder: AnyPath) -> None:
        """Write ``run.json`` atomically."""
        config = self.config.changed()
        config |= {name: None for name in LIVE if not isinstance(config.get(name, ""), str)}
        marks = fingerprint(self.config, self.model["identity"])
        document = {
            "format": FORMAT,
            "patchloom": __version__,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "fingerprint": digest(marks),
            "made_with": marks,
            "source": self.source,
            "model": dict(self.model),
            "config": config,
            "hook": self.hook,
            "filter": self.filter,
            "whole": self.whole,
            "id": self.id,
            "ndim": self.ndim,
            "heads": heads_to_json(self.heads),
            "unit_width": self.unit_width,
            "channels": self.channels,
            "image_dtype": self.image_dtype,
        }
        body = json.dumps(document, sort_keys=True)
        document["checksum"] = zlib.crc32(json.dumps(json.loads(body), sort_keys=True).encode())
        write_file(folder / "run.json", json.dumps(document, indent=1).encode())

    @classmethod
    def read(cls, folder: AnyPath) -> RunDocument:
        """Read ``run.json``.

        Raises
        ------
        RunNotFoundError
            If there is none.
        RunDamagedError
            If it is not what was written, or a later version wrote it.
        """
        path = folder / "run.json"
        try:
            document = json.loads(path.read_bytes())
            checksum = document.pop("checksum")
            intact = checksum == zlib.crc32(json.dumps(document, sort_keys=True).encode())
        except (FileNotFoundError, NotADirectoryError):
            raise RunNotFoundError(f"there is no run in {folder}", "`patchloom predict` makes one") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            intact = False
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error}", "is it there, and may you read it?") from error
        if not intact:
            raise RunDamagedError(f"{path} is damaged", "restore it from a copy; the predictions may still be intact")
        if document["format"] > FORMAT:
            raise RunDamagedError(
                f"{path} was written by a later patchloom ({document['patchloom']})", "pip install --upgrade patchloom"
            )
        return cls(
            Config(**document["config"]),
            document["source"],
            document["model"],
            document["ndim"],
            heads_from_json(document["heads"]),
            document["unit_width"],
            document["channels"],
            document["image_dtype"],
            document["hook"],
            document.get("filter"),
            tuple(document["whole"]) if document.get("whole") else None,
            document.get("id") or digest(document)[:32],
        )

    @property
    def live(self) -> dict[str, str]:
        """Options that were given as objects, which the folder does not hold, and their identities."""
        return {name: mark for name, mark in (("preprocess", self.hook), ("skip", self.filter)) if mark is not None}

    def check_same(self, config: Config, identity: str | None, images_done: int) -> None:
        """Raise ConfigMismatchError unless this run was made with the same model and options.

        Raises
        ------
        UsageError
            If the model cannot be recognised again.
        """
        if identity is None or self.model["identity"] is None:
            raise UsageError(
                "this model cannot be hashed, so it is not known whether the run was made with it",
                "give both runs a model_id",
            )
        ours = fingerprint(self.config, self.model["identity"]) | self.live
        theirs = json.loads(json.dumps(fingerprint(config, identity)))
        for name in LIVE:
            theirs[name] = live_identity(getattr(config, name)) or theirs[name]
        # The identity of models that are combined says how; the options say it so that a person understands.
        names = sorted(ours, key=lambda name: name not in ("ensemble", "tta"))
        ours = json.loads(json.dumps(ours))
        for name in names:
            value = ours[name]
            if value != theirs[name]:
                hint = f"choose another -o, or --overwrite to discard {images_done} image{'s' * (images_done != 1)}"
                raise ConfigMismatchError(
                    f"run was made with a different {_difference(name, value, theirs[name])}", hint
                )


def _difference(name: str, was: Any, now: Any) -> str:
    if name == "model" and ":" in f"{was}" and ":" in f"{now}":
        kind, was = was.split(":", 1)
        now = now.split(":", 1)[1]
        return f"model ({kind} {was[:4]}… is not {now[:4]}…)"
    return f"{name} ({_shown(was)} is not {_shown(now)})"


def _shown(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
