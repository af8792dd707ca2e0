"""From options, a source and a model to everything that a run needs before its first patch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.config import Config
from patchloom.engine import plan as planning
from patchloom.engine.budget import Budget, Limits, allowed_memory, check_memory
from patchloom.engine.memory import resident_memory
from patchloom.engine.plan import Plan
from patchloom.engine.predictor import Predictor, check_channels
from patchloom.engine.survey import Survey, trial_patch
from patchloom.errors import ModelInputError, UsageError
from patchloom.geometry.grid import per_axis
from patchloom.images.filters import MASK_BYTES, Filter, Mask, as_filter
from patchloom.images.resized import Fit
from patchloom.models.ensemble import Ensemble
from patchloom.models.flips import Augmented
from patchloom.models.heads import find_heads
from patchloom.models.load import load_model, with_steps
from patchloom.models.model import Head, Model
from patchloom.models.steps import Preprocess, Reduce, Steps, parse_reduce
from patchloom.objects import AnyPath
from patchloom.predictions.folder import RunDocument
from patchloom.predictions.layout import RunLayout
from patchloom.references import resolve

__all__ = ["Ready", "load", "number_of_axes", "prepare", "resolved"]

DEFAULT_PATCH = 512


@dataclass(frozen=True)
class Ready:
    """A model that was tried, and how it is going to be run."""

    layout: RunLayout
    model: Model
    predictor: Predictor
    limits: Limits
    channels: int
    image_dtype: np.dtype[Any]
    memory: int
    projected: int
    hints: tuple[str, ...]
    filter: Filter | None = None

    @property
    def reduced_by_model(self) -> bool:
        """Whether the model reduces its heads by itself, on its device."""
        return self.model.info.on_device and self.layout.config.blend == "crop"

    def plan(self, found: Survey) -> Plan:
        """The plan for what the survey found."""
        return planning.make_plan(
            found, self.layout, self.model, self.predictor, self.limits, self.projected, self.hints
        )


def load(model: object, config: Config, threads: int) -> Model:
    """Load the model, or the models of an ensemble, as one that is augmented where that is wanted.

    It may use several threads a call only where it is called by one thread at a time.
    """
    loaded = _loaded(model, config, 1)
    if threads > 1 and not loaded.info.concurrent and loaded.info.device == "cpu":
        loaded = _loaded(model, config, threads)
    return loaded


def _loaded(model: object, config: Config, threads: int) -> Model:
    members = [
        load_model(
            one,
            device=config.device,
            threads=threads,
            arch=config.arch,
            allow_pickle=config.allow_pickle,
        )
        for one in (model if isinstance(model, (list, tuple)) else [model])
    ]
    if len(members) == 1 and config.ensemble != "mean":
        raise UsageError(f"ensemble {config.ensemble} is for several models, and there is one", "-m A -m B")
    loaded = members[0] if len(members) == 1 else Ensemble(members, config.ensemble)
    return loaded if config.tta == "none" else Augmented(loaded, config.tta)


def number_of_axes(config: Config, model: Model) -> int:
    """2 or 3: as many as `patch` has numbers, else what the model says."""
    if config.patch == "image":
        if model.info.ndim == 3:
            raise UsageError("whole images are planes, and the model takes volumes", "give --patch z,y,x")
        return 2
    if config.patch is not None and len(config.patch) > 1:
        if len(config.patch) > 3:
            raise UsageError(f"patch has {len(config.patch)} numbers", "two (y,x), three (z,y,x), or one for all axes")
        return len(config.patch)
    return model.info.ndim or 2


def resolved(config: Config, model: Model) -> Config:
    """The same options with patch and stride settled, one number an axis.

    Raises
    ------
    ModelInputError
        If the model's input has another fixed size.
    """
    ndim, fixed = number_of_axes(config, model), model.info.patch
    if config.patch == "image":
        return _resolved_whole(config, model)
    try:
        patch = per_axis(_single(config.patch), ndim) if config.patch else fixed or (DEFAULT_PATCH,) * ndim
        if config.stride is not None:
            stride = per_axis(_single(config.stride), ndim)
        else:
            overlap = per_axis(_single(config.overlap or (0,)), ndim)
            stride = tuple(p - o for p, o in zip(patch, overlap, strict=True))
    except ValueError as error:
        raise UsageError(str(error), "give one number, or one an axis") from None
    if fixed is not None and patch != fixed:
        raise ModelInputError(
            f"patch {_text(patch)} does not fit {model.info.name}, whose input is fixed at {_text(fixed)}",
            f"choose --patch {_text(fixed)}, or leave it out",
        )
    if min(stride) < 1:
        raise UsageError(
            f"overlap {_text(config.overlap or ())} is not below patch {_text(patch)}",
            "choose a smaller overlap or a larger patch",
        )
    return config.replace(patch=patch, stride=stride, overlap=None)


def prepare(
    model: Model,
    config: Config,
    found: Survey,
    document: RunDocument | None,
    folder: AnyPath,
) -> Ready:
    """Try the model on a real patch and settle batch, threads and memory.

    Parameters
    ----------
    model, config
        Loaded, and `resolved`.
    found
        What the headers say.
    document
        Of the run that is resumed, or None: its heads are then those of the run.
    folder
        Of the run.

    Raises
    ------
    ModelInputError, ModelOutputError, UsageError, MemoryBudgetError
        If the model does not take the patches or answers with something unusable, an option does not fit the heads, or
        the run would not fit into its memory.
    """
    patch, whole = _patch(model, config, found, document)
    ndim = len(patch)
    skip = _filter(config, found)
    threads = planning.machine_threads(config)
    channels, image_dtype = _channels(model, found, document), _image_dtype(found, model, document)
    preprocess = _preprocess(config)
    preprocess.check(channels)
    # The user's own step comes after ours and before the model, so all of it is done here.
    on_device = model.info.on_device and config.preprocess is None
    by_model = preprocess if on_device else Preprocess()
    model = with_steps(model, Steps(by_model))
    dtype = image_dtype if on_device else preprocess.output_dtype(image_dtype, model.info.dtype)
    hook = _hook(config)

    def predictor_for(model: Model, heads: tuple[Head, ...], reduce: Mapping[str, Reduce] | None = None) -> Predictor:
        given = None if on_device else preprocess
        return Predictor(model, heads, channels, patch, dtype, given, hook, threads, reduce)

    before = resident_memory()
    if document is not None:
        heads = document.heads
    else:
        heads = _trial(predictor_for(model, ()), model, config, found, image_dtype)
    call_bytes = max(0, resident_memory() - before)
    layout = RunLayout(folder, config, ndim, heads, None, whole)
    layout.check()
    reduce = parse_reduce(config.reduce, [head.name for head in heads])
    if model.info.on_device and config.blend == "crop":
        predictor = predictor_for(with_steps(model, Steps(by_model, reduce)), layout.heads)
        model = predictor.model
    else:
        vectors = {head.name for head in heads if head.kind == "vector"}
        predictor = predictor_for(model, heads, {name: one for name, one in reduce.items() if name in vectors and one})
    memory = allowed_memory(config)
    batch = planning.choose_batch(config, model, predictor, memory)
    calls = predictor.at_once * batch * max(call_bytes, predictor.bytes_a_patch)
    masks = MASK_BYTES if isinstance(skip, Mask) else 0
    budget = Budget.of(layout, channels, image_dtype, resident_memory() + calls + masks, found)
    width = document.unit_width if document is not None else budget.width(memory)
    layout = replace(layout, unit_width=width)
    projected = budget.projected(width)
    check_memory(projected, memory)
    limits = Limits(threads, batch, budget.decoded(width))
    hints = _hints(model, config, image_dtype)
    return Ready(layout, model, predictor, limits, channels, image_dtype, memory, projected, hints, skip)


def _resolved_whole(config: Config, model: Model) -> Config:
    fixed = model.info.patch
    if fixed is None:
        return config
    if config.resize is None and config.centre_crop is None:
        return config.replace(resize=fixed)
    asked = Fit(config.resize, config.centre_crop).fixed
    if asked != fixed:
        raise ModelInputError(
            f"{model.info.name} takes images of {_text(fixed)} pixels, and "
            + ("only one side is given" if asked is None else f"{_text(asked)} are asked for"),
            f"add --centre-crop {_text(fixed)}",
        )
    return config


def _patch(
    model: Model, config: Config, found: Survey, document: RunDocument | None
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Size of a patch, and the same where it is a whole image."""
    if config.patch != "image":
        assert config.patch is not None
        return config.patch, None
    whole: tuple[int, ...] | None = Fit(config.resize, config.centre_crop).fixed
    if document is not None:
        whole = document.whole
    if whole is None:  # most images have it; the others fail, and are recorded, in their turn
        sizes = Counter(size.plane for size in found.sizes)
        whole = sizes.most_common(1)[0][0] if sizes else (DEFAULT_PATCH, DEFAULT_PATCH)
    return whole, whole


def _trial(
    predictor: Predictor, model: Model, config: Config, found: Survey, dtype: np.dtype[Any]
) -> tuple[Head, ...]:
    patch = trial_patch(found, config, predictor.patch, predictor.channels, dtype)
    n = model.info.batch or 1
    batch = predictor.empty(n)
    for i in range(n):
        slot = np.moveaxis(batch[i], -1, 0) if model.info.channels_last else batch[i]
        _fill(predictor, patch, slot)
    outputs = predictor.raw(batch)
    return find_heads(
        outputs,
        batch_size=n,
        patch=predictor.patch,
        ndim=len(predictor.patch),
        classes=config.classes,
        info=model.info,
    )


def _fill(predictor: Predictor, patch: NDArray[Any], slot: NDArray[Any]) -> None:
    if predictor.preprocess is None:
        slot[...] = patch
    else:
        predictor.preprocess.into(patch, slot)


def _channels(model: Model, found: Survey, document: RunDocument | None) -> int:
    if document is not None:
        return document.channels
    counts = [size.channels for size in found.sizes]
    wanted = model.info.channels
    if not counts:
        return wanted or 3
    if wanted is not None and wanted not in counts:
        check_channels(model, counts[0], found.entries[0].name if found.entries else "the first image")
    return wanted if wanted is not None else max(set(counts), key=counts.count)


def _image_dtype(found: Survey, model: Model, document: RunDocument | None) -> np.dtype[Any]:
    if document is not None:
        return np.dtype(document.image_dtype)
    dtypes = {size.dtype for size in found.sizes}
    return np.result_type(*dtypes) if dtypes else np.dtype(np.uint8)


def _hints(model: Model, config: Config, dtype: np.dtype[Any]) -> tuple[str, ...]:
    unscaled = not _preprocess(config).changes_values and config.preprocess is None
    if unscaled and dtype == np.uint8 and model.info.dtype is not None and model.info.dtype.kind == "f":
        return ("8-bit pixels go unscaled into a model that takes floats; --scale 255 if it was trained on 0 to 1",)
    return ()


def _hook(config: Config) -> Callable[[Any], Any] | None:
    if config.preprocess is None:
        return None
    step: Any = resolve(config.preprocess) if isinstance(config.preprocess, str) else config.preprocess
    if not callable(step):
        raise UsageError(
            f"preprocess: {config.preprocess!r} cannot be called", "name a function from a batch to a batch"
        )
    return step


def _filter(config: Config, found: Survey) -> Filter | None:
    if config.skip is None:
        return None
    skip = as_filter(config.skip)
    if isinstance(skip, Mask) and skip.is_one and found.images > 1:
        raise UsageError(
            f"skip: {skip.path} is one mask, and there are {found.images:,} images",
            "give a folder with a mask for each image",
        )
    return skip


def _preprocess(config: Config) -> Preprocess:
    return Preprocess(config.scale, config.mean, config.std)


def _single(values: tuple[int, ...] | None) -> int | tuple[int, ...]:
    assert values is not None
    return values[0] if len(values) == 1 else values


def _text(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))
