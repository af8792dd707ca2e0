"""Preprocessing and reductions as PyTorch operations, with the results that `steps` has in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from patchloom.models.steps import Preprocess, Reduce, Reduction

__all__ = ["preprocess", "reduce"]


def preprocess(pixels: Any, steps: Preprocess, dtype: Any) -> Any:
    """Pixels ``(N, C, [Z,] Y, X)`` on their device as `dtype`, after scale, mean and std in float32.

    Raises
    ------
    UsageError
        If `mean` or `std` fit another number of channels.
    """
    import torch

    steps.check(pixels.shape[1])
    if not steps.changes_values:
        return pixels if dtype is None else pixels.to(dtype)

    def numbers(values: tuple[float, ...]) -> Any:
        # A tensor on the device: dividing by a Python number would multiply by its reciprocal there.
        shape = (1, -1) + (1,) * (pixels.ndim - 2)
        return torch.tensor(values, dtype=torch.float32, device=pixels.device).reshape(shape)

    result = pixels.to(torch.float32)
    if steps.scale is not None:
        result = result / numbers((steps.scale,))
    if steps.mean is not None:
        result = result - numbers(steps.mean)
    if steps.std is not None:
        result = result / numbers(steps.std)
    return result if dtype is None else result.to(dtype)


def reduce(head: Any, steps: Reduce) -> Any:
    """Reduced head; channels are on axis 1 of ``(N, C, [Z,] Y, X)`` or ``(N, K)``."""
    for step in steps.steps:
        head = _reduced(head, step)
    return head


def _reduced(head: Any, step: Reduction) -> Any:
    import torch

    floating = head.is_floating_point()
    work = head if head.dtype == torch.float64 else head.float()
    if step.name == "softmax":
        return torch.softmax(work, 1).to(head.dtype if floating else torch.float32)
    if step.name == "sigmoid":
        return torch.sigmoid(work).to(head.dtype if floating else torch.float32)
    if step.name == "argmax":
        return torch.argmax(head, 1).to(torch.uint8 if head.shape[1] <= 255 else torch.uint16)
    if step.name == "threshold":
        limit = torch.tensor(step.limit, dtype=head.dtype if floating else torch.float64, device=head.device)
        return (head > limit).to(torch.uint8)
    if step.name == "uint8":
        if not floating:
            return head.to(torch.uint8)
        return torch.nan_to_num(torch.round(work * np.float32(255)), nan=0.0).clamp(0, 255).to(torch.uint8)
    return head.half()
