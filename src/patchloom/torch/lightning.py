"""Lightning: a callback that hands what `predict_step` returns to a write strategy."""

from __future__ import annotations

import functools
import importlib
import sys
import types
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from patchloom.errors import MissingExtraError, PatchloomError, PredictionError, UsageError
from patchloom.writing.prediction import ImagePrediction
from patchloom.writing.strategy import WriteStrategy

__all__ = ["PredictionWriter"]

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
"""The two names under which Lightning is installed; their classes are not the same ones."""


class PredictionWriter:
    """Lightning callback that writes predictions batch by batch.

    `predict_step` returns an `ImagePrediction`, a list of them, or None. It is a ``BasePredictionWriter`` of
    ``lightning``, of ``pytorch_lightning``, or of both: of what the program has imported, else of what is installed.
    Use ``trainer.predict(…, return_predictions=False)``, or Lightning keeps all predictions in memory. Write on one
    device: with several, each process has a part of the images only.

    Parameters
    ----------
    folder
        Where images are written. With several dataloaders, each has a folder in it: ``dataloader_0``, ``dataloader_1``,
        …, for their data indices and sources may be the same.
    strategy
        How; may be set later, and changed between predictions. It is closed when a prediction ends.

    Attributes
    ----------
    folder, strategy
        As given.

    Raises
    ------
    MissingExtraError
        If Lightning is not installed.

    Examples
    --------
    >>> from patchloom.writing import WriteImage, write_tiff
    >>> writer = PredictionWriter("predictions", WriteImage(write_tiff, ".tiff"))
    >>> trainer = lightning.Trainer(callbacks=[writer])  # doctest: +SKIP
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> PredictionWriter:
        """Make one of the class that is also Lightning's."""
        bases = _base_writers()
        plain: Any = cls
        made: Any = cls if issubclass(cls, bases) else _joined(plain, bases)
        return object.__new__(made)

    def __init__(self, folder: str | Path, strategy: WriteStrategy | None = None) -> None:
        super().__init__(write_interval="batch")  # type: ignore[call-arg]  # Lightning's, see __new__
        self.folder, self.strategy = Path(folder), strategy

    def __reduce__(self) -> Any:
        """The class that was made for it cannot be imported by its name."""
        return _again, (_plain(type(self)), self.__dict__)

    def write_on_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Hand the predictions of one batch to the strategy; called by Lightning."""
        if self.strategy is None:
            raise UsageError("the PredictionWriter has no strategy", "set writer.strategy before predicting")
        predictions = _listed(prediction)
        several = len(trainer.num_predict_batches) > 1
        folder = self.folder / f"dataloader_{dataloader_idx}" if several else self.folder
        self.strategy.write_batch(folder, predictions)

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the strategy; called by Lightning.

        Raises
        ------
        IncompleteImageError
            If images were never completed, unless the strategy was told to warn.
        """
        if self.strategy is not None:
            self.strategy.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close the strategy; that images are incomplete now is a note to the exception, not one of its own."""
        if self.strategy is None:
            return
        try:
            self.strategy.close()
        except PatchloomError as error:
            exception.add_note(f"{type(error).__name__}: {error}")


def _listed(prediction: Any) -> list[ImagePrediction]:
    if prediction is None:
        return []
    listed = [prediction] if isinstance(prediction, ImagePrediction) else prediction
    if isinstance(listed, Iterable) and not hasattr(listed, "shape"):
        listed = [one for one in listed if one is not None]
        if all(isinstance(one, ImagePrediction) for one in listed):
            return listed
    raise PredictionError(
        f"predict_step returned a {type(prediction).__name__}, not ImagePrediction",
        "return an ImagePrediction for each sample or tile of the batch, in a list",
    )


def _base_writers() -> tuple[type, ...]:
    """``BasePredictionWriter`` of the packages in use."""
    imported = [name for name in PACKAGES if name in sys.modules]
    installed = [name for name in PACKAGES if find_spec(name.partition(".")[0])][:1]
    if not imported and not installed:
        raise MissingExtraError.of("lightning", "lightning", "PredictionWriter")
    return tuple(importlib.import_module(name).callbacks.BasePredictionWriter for name in imported or installed)


@functools.cache
def _joined(cls: Any, bases: tuple[type, ...]) -> type:
    about = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return types.new_class(cls.__name__, (cls, *bases), {}, lambda body: body.update(about))


def _plain(cls: type) -> type:
    """The class that a user named."""
    return next(base for base in cls.__mro__ if getattr(sys.modules.get(base.__module__), base.__name__, None) is base)


def _again(cls: type, state: dict[str, Any]) -> Any:
    writer: Any = cls.__new__(cls)  # type: ignore[call-overload]  # of PredictionWriter
    writer.__dict__.update(state)
    return writer
