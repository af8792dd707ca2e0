"""Several models as one: their heads averaged or voted."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelError, ModelOutputError, UsageError
from patchloom.models.load import with_steps
from patchloom.models.model import Model, ModelInfo
from patchloom.models.steps import Steps

__all__ = ["Ensemble", "Mode", "combined", "combined_identity"]

Mode = Literal["mean", "vote"]
Answer = tuple[str, Mapping[str, NDArray[Any]]]
"""Name of a model, for messages, and what it predicts."""

MUST_AGREE = ("dtype", "channels", "patch", "batch", "ndim", "classes")


class Ensemble:
    """Several models as one, which neither preprocesses nor reduces by itself.

    Models agree on what they take, or do not say, and answer with the same heads; where each has one head only, its
    name does not matter. Their batches may have channels in different places.

    Parameters
    ----------
    models
        At least one. Steps that they would do on their device are left out: whoever calls does them.
    mode
        ``mean``: scores (heads of floats) are averaged, in float32. ``vote``: each model votes for its class of the
        highest score, and the class with the most votes gets 1, all others 0, in float32. With both, class numbers
        (heads of integers) are voted. Of classes with equally many votes the smallest wins.

    Raises
    ------
    UsageError
        If there are no models, or there is no such mode.
    ModelError
        If two models do not take the same patches; both are named.

    Examples
    --------
    >>> from patchloom.models.load import load_model
    >>> models = [load_model(lambda batch, k=k: batch[:, 0] * k) for k in (1.0, 3.0)]
    >>> Ensemble(models).predict(np.ones((1, 1, 2, 2), np.float32))["prediction"]
    array([[[2., 2.],
            [2., 2.]]], dtype=float32)
    """

    def __init__(self, models: Sequence[Model], mode: Mode = "mean") -> None:
        if mode not in get_args(Mode):
            raise UsageError(f"ensemble: {mode!r} is no way to combine models", "mean or vote")
        self._models = [with_steps(model, Steps()) for model in models]
        self._mode = mode
        self._info = _common(self._models, mode)

    @property
    def info(self) -> ModelInfo:
        """What the models have in common; concurrent where all are."""
        return self._info

    def predict(self, batch: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """Predict a batch with each model and combine what they say; see `Model.predict`.

        Raises
        ------
        ModelOutputError
            If two models answer with other heads or shapes, or there are no classes to vote for.
        """
        return combined(self._answers(batch), self._mode, batch.ndim)

    def _answers(self, batch: NDArray[Any]) -> Iterator[Answer]:
        last = self._info.channels_last
        for model in self._models:
            moved = batch
            if model.info.channels_last != last:
                moved = np.moveaxis(batch, -1, 1) if last else np.moveaxis(batch, 1, -1)
            yield model.info.name, model.predict(moved)


def combined(answers: Iterable[Answer], mode: Mode, axes: int) -> dict[str, NDArray[Any]]:
    """Answers to the same patches as one; see `Ensemble`. Of scores only their sum is held.

    Parameters
    ----------
    answers
        At least one, each with the same heads.
    mode
        ``mean`` or ``vote``.
    axes
        Number of axes of the batch, N and C included: heads with as many have channels.

    Raises
    ------
    ModelOutputError
        If two answers have other heads or shapes, or there are no classes to vote for.
    """
    sums: dict[str, NDArray[Any]] = {}
    votes: dict[str, list[NDArray[Any]]] = {}
    count, first = 0, ""
    for name, answer in answers:
        if not count:
            first, expected = name, answer
        for head, array in zip(expected, _matching(answer, name, expected, first), strict=True):
            if array.dtype.kind != "f":
                votes.setdefault(head, []).append(array)
                continue
            scores = array if mode == "mean" else _vote_of(array, axes, f"head {head!r} of {name}")
            if head in sums:
                sums[head] += scores
            else:
                sums[head] = scores.astype(np.float32)
        count += 1
    finish = _average if mode == "mean" else _elected
    return {head: finish(sums[head], count) if head in sums else _majority(votes[head]) for head in expected}


def combined_identity(mode: str, models: Sequence[ModelInfo]) -> str | None:
    """Hash of how models are combined and of their identities; None where one has none."""
    identities = [info.identity for info in models if info.identity is not None]
    if len(identities) < len(models):
        return None
    return f"sha256:{hashlib.sha256(' '.join([mode, *identities]).encode()).hexdigest()}"


def _common(models: Sequence[Model], mode: str) -> ModelInfo:
    if not models:
        raise UsageError("an ensemble needs a model", "give several models")
    infos = [model.info for model in models]
    agreed: dict[str, Any] = {item: _agreed(infos, item) for item in MUST_AGREE}
    formats, devices = ({getattr(info, item) for info in infos} for item in ("memory_format", "device"))
    return ModelInfo(
        name=" + ".join(info.name for info in infos),
        identity=combined_identity(f"ensemble {mode}", infos),
        channels_last=infos[0].channels_last,
        concurrent=all(info.concurrent for info in infos),
        device=max(devices, key=lambda device: (device != "cpu", device)),
        memory_format="channels_last" if formats == {"channels_last"} else "contiguous",
        **agreed,
    )


def _agreed(infos: Sequence[ModelInfo], item: str) -> Any:
    """What all models say that say anything."""
    saying = [info for info in infos if getattr(info, item) not in (None, ())]
    for info, other in itertools.pairwise(saying):
        ours, theirs = getattr(info, item), getattr(other, item)
        if ours != theirs:
            raise ModelError(
                f"{info.name} and {other.name} do not agree: {item} is {_text(ours)} and {_text(theirs)}",
                "models of an ensemble take the same patches and know the same classes",
            )
    return getattr(saying[0] if saying else infos[0], item)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _matching(
    answer: Mapping[str, NDArray[Any]], name: str, expected: Mapping[str, NDArray[Any]], first: str
) -> Iterator[NDArray[Any]]:
    """Heads of an answer in the order of another's."""
    if len(answer) == len(expected) == 1:
        answer = dict(zip(expected, answer.values(), strict=True))
    if set(answer) != set(expected):
        raise ModelOutputError(
            f"{first} has heads {', '.join(expected)}, and {name} has {', '.join(answer)}",
            "models of an ensemble answer with the same heads",
        )
    for head, like in expected.items():
        array = answer[head]
        if array.shape != like.shape or (array.dtype.kind == "f") != (like.dtype.kind == "f"):
            raise ModelOutputError(
                f"head {head!r} is {like.dtype} of shape {like.shape} of {first}, and {array.dtype} of shape "
                f"{array.shape} of {name}",
                "models of an ensemble answer with the same heads",
            )
        yield array


def _vote_of(scores: NDArray[Any], axes: int, where: str) -> NDArray[np.float32]:
    """1 for the class with the highest score of each pixel or patch, 0 for all others; a NaN votes for nothing."""
    if scores.ndim not in (2, axes) or scores.shape[1] < 2:
        raise ModelOutputError(f"{where} has no classes to vote for: shape {scores.shape}", "use --ensemble mean")
    return _one_hot(np.argmax(scores, 1, keepdims=True), scores.shape) * ~np.isnan(scores).any(1, keepdims=True)


def _one_hot(classes: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    votes = np.zeros(shape, np.float32)
    np.put_along_axis(votes, classes, 1, 1)
    return votes


def _average(total: NDArray[Any], count: int) -> NDArray[Any]:
    total /= np.float32(count)
    return total


def _elected(counts: NDArray[Any], _: int) -> NDArray[Any]:
    """Winner of counted votes; NaN where nobody voted."""
    votes = _one_hot(np.argmax(counts, 1, keepdims=True), counts.shape)
    votes[np.broadcast_to(~counts.any(1, keepdims=True), votes.shape)] = np.nan
    return votes


def _majority(votes: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Most frequent number at each place, of several the smallest."""
    best = votes[0].astype(np.result_type(*votes))
    most = np.zeros(best.shape, np.intp)
    for candidate in votes:
        count = np.sum([other == candidate for other in votes], axis=0, dtype=np.intp)
        better = (count > most) | ((count == most) & (candidate < best))
        np.copyto(best, candidate, where=better)
        np.copyto(most, count, where=better)
    return best
