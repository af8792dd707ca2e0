"""Every error that patchloom raises on purpose, grouped by what a caller would do about it.

::

    PatchloomError
    ├── UsageError (ValueError)                 usage             correct the options
    │   └── QueryError                          query             correct the `where` expression
    ├── MissingExtraError (ImportError)         missing-extra     install the named extra
    ├── MemoryBudgetError (MemoryError)         memory-budget     raise --memory or make the batch smaller
    ├── SourceError (ValueError)                source            point at other images
    │   └── SourceNotFoundError (FileNotFoundError)  source-not-found
    ├── ImageError (ValueError)                 image             costs one image; the run goes on
    │   ├── UnknownFormatError                  unknown-format
    │   ├── UnreadableImageError (OSError)      unreadable-image
    │   ├── ImageTooLargeError                  image-too-large
    │   ├── WorkerDiedError                     worker-died       each worker that was given it ended
    │   └── ImageMismatchError                  image-mismatch    axes, channels or level do not fit
    ├── ModelError (ValueError)                 model             correct the model
    │   ├── ModelNotFoundError (FileNotFoundError)  model-not-found
    │   ├── ModelLoadError                      model-unreadable
    │   ├── ModelInputError                     model-input
    │   ├── ModelOutputError                    model-output
    │   └── PickleRefusedError                  pickle-refused    --allow-pickle, if the file is trusted
    ├── RunError (OSError)                      run               look at the run's folder
    │   ├── RunNotFoundError (FileNotFoundError)  run-not-found
    │   ├── RunLockedError                      run-locked        wait for, or stop, the other process
    │   ├── RunDamagedError                     run-damaged       see `patchloom verify`
    │   ├── OutputError                         output            make room, or choose another folder
    │   └── ConfigMismatchError (ValueError)    config-mismatch   choose another folder or --overwrite
    ├── StoreError (OSError)                    store             correct --store, or look at its server
    │   └── StoreUnreachableError               store-unreachable  start the server, then resume
    ├── PredictionError (ValueError)            prediction        does not fit the image that it is of
    │   └── IncompleteImageError                incomplete-image  hand over what is missing
    ├── NotPredictedError (KeyError)            not-predicted     no such image or patch in the run
    └── Interrupted (KeyboardInterrupt)         interrupted       resume

The third column is `kind`: stable, and only ever added to.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ConfigMismatchError",
    "ImageError",
    "ImageMismatchError",
    "ImageTooLargeError",
    "IncompleteImageError",
    "Interrupted",
    "MemoryBudgetError",
    "MissingExtraError",
    "ModelError",
    "ModelInputError",
    "ModelLoadError",
    "ModelNotFoundError",
    "ModelOutputError",
    "NotPredictedError",
    "OutputError",
    "PatchloomError",
    "PickleRefusedError",
    "PredictionError",
    "QueryError",
    "RunDamagedError",
    "RunError",
    "RunLockedError",
    "RunNotFoundError",
    "SourceError",
    "SourceNotFoundError",
    "StoreError",
    "StoreUnreachableError",
    "UnknownFormatError",
    "UnreadableImageError",
    "UsageError",
    "WorkerDiedError",
]


class PatchloomError(Exception):
    """Base of all errors of patchloom.

    Parameters
    ----------
    message
        What is wrong and where, in one line without a full stop.
    hint
        What to do about it, in one line; may be empty.
    """

    kind: ClassVar[str] = "error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(PatchloomError, ValueError):
    """An option has a value that it cannot have, or two options exclude each other."""

    kind = "usage"


class QueryError(UsageError):
    """A `where` or `sort` expression cannot be understood."""

    kind = "query"


class MissingExtraError(PatchloomError, ImportError):
    """An optional package is not installed."""

    kind = "missing-extra"

    @classmethod
    def of(cls, package: str, extra: str, what: str) -> MissingExtraError:
        """Error for `package`, which `what` needs and which `pip install patchloom[extra]` brings."""
        return cls(f"{what} needs {package}, which is not installed", f"pip install 'patchloom[{extra}]'")


class MemoryBudgetError(PatchloomError, MemoryError):
    """The run would not fit into the memory that it is allowed."""

    kind = "memory-budget"


class SourceError(PatchloomError, ValueError):
    """The source cannot be enumerated, or holds no images."""

    kind = "source"


class SourceNotFoundError(SourceError, FileNotFoundError):
    """The path that was given as a source does not exist."""

    kind = "source-not-found"


class ImageError(PatchloomError, ValueError):
    """One image cannot be used; other images are not concerned."""

    kind = "image"


class UnknownFormatError(ImageError):
    """No reader recognises the content of the file."""

    kind = "unknown-format"


class UnreadableImageError(ImageError, OSError):
    """The file is truncated, corrupt, or compressed in a way that cannot be decoded."""

    kind = "unreadable-image"


class ImageTooLargeError(ImageError):
    """Reading the image, or one chunk of it, would take more memory than is allowed."""

    kind = "image-too-large"


class WorkerDiedError(ImageError):
    """Workers that are given the image end, again and again."""

    kind = "worker-died"


class ImageMismatchError(ImageError):
    """The image lacks the axes, the channels or the level that were asked for."""

    kind = "image-mismatch"


class ModelError(PatchloomError, ValueError):
    """The model cannot be used."""

    kind = "model"


class ModelNotFoundError(ModelError, FileNotFoundError):
    """The model file, module or function does not exist."""

    kind = "model-not-found"


class ModelLoadError(ModelError):
    """The model file exists and cannot be loaded."""

    kind = "model-unreadable"


class ModelInputError(ModelError):
    """The model does not accept these patches: number of channels, size or dtype."""

    kind = "model-input"


class ModelOutputError(ModelError):
    """The model answered with something that is neither a map nor numbers per patch."""

    kind = "model-output"


class PickleRefusedError(ModelError):
    """Loading the model would run code out of the file."""

    kind = "pickle-refused"


class RunError(PatchloomError, OSError):
    """The run's folder cannot be used."""

    kind = "run"


class RunNotFoundError(RunError, FileNotFoundError):
    """There is no run in this folder."""

    kind = "run-not-found"


class RunLockedError(RunError):
    """Another process is writing this run."""

    kind = "run-locked"


class RunDamagedError(RunError):
    """A file of the run is missing, or is not what was written."""

    kind = "run-damaged"


class OutputError(RunError):
    """The output cannot be written: no permission, no room, no such folder."""

    kind = "output"


class ConfigMismatchError(RunError, ValueError):
    """The folder holds a run that was made with another model or configuration."""

    kind = "config-mismatch"


class StoreError(PatchloomError, OSError):
    """The store of predictions refuses: its URL, a password, a right, a table."""

    kind = "store"


class StoreUnreachableError(StoreError):
    """The store's server does not answer."""

    kind = "store-unreachable"


class PredictionError(PatchloomError, ValueError):
    """A prediction that a caller's own loop hands over does not fit the image that it is of."""

    kind = "prediction"


class IncompleteImageError(PredictionError):
    """Predictions of an image are missing at the end."""

    kind = "incomplete-image"


class NotPredictedError(PatchloomError, KeyError):
    """The run has no such image, or the image has no such patch."""

    kind = "not-predicted"


class Interrupted(PatchloomError, KeyboardInterrupt):  # noqa: N818 - it is no error: the user asked for it
    """The run was stopped by the user; everything committed is kept."""

    kind = "interrupted"
