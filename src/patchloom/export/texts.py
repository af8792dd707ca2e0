"""Columns of a table as texts, whole columns at a time."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from patchloom.predictions.patches import list_values

__all__ = ["json_rows", "list_texts", "number_texts"]


def number_texts(column: Any, nan: str = "nan", infinity: str = "inf") -> Any:
    """Numbers, as short as they can be without becoming others.

    Parameters
    ----------
    column
        Arrow array of numbers or truth values.
    nan, infinity
        What stands for floats that are not finite; `infinity` has a sign in front where it is negative and a number.
    """
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    texts = column.cast(pa.string())
    if not pa.types.is_floating(column.type) or pc.all(pc.is_finite(column)).as_py() in (True, None):
        return texts
    texts = pc.if_else(pc.is_nan(column), nan, texts)
    if infinity == nan:
        return pc.if_else(pc.is_inf(column), nan, texts)
    return pc.if_else(pc.is_inf(column), pc.replace_substring(texts, "inf", infinity), texts)


def list_texts(column: Any, separator: str = ", ", nan: str = "NaN", infinity: str = "Infinity") -> Any:
    """Lists of one length as JSON writes them; null where there is no list.

    Parameters
    ----------
    column
        Arrow array of fixed-size lists of numbers.
    separator
        Between numbers.
    nan, infinity
        As for `number_texts`.
    """
    numbers = number_texts(list_values(column), nan, infinity)
    offsets = pa.array(range(0, len(numbers) + 1, column.type.list_size), pa.int32())
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, numbers), separator)
    lists = pc.binary_join_element_wise("[", joined, "]", "")
    return pc.if_else(column.is_null(), pa.scalar(None, pa.string()), lists) if column.null_count else lists


def json_rows(batch: pa.RecordBatch) -> Any:
    """Rows as JSON objects in one line each; what is missing and what is not finite is null.

    Examples
    --------
    >>> batch = pa.RecordBatch.from_pydict({"image": ["a"], "y": [0], "tumour": pa.array([0.97], pa.float32())})
    >>> json_rows(batch).to_pylist()
    ['{"image":"a","y":0,"tumour":0.97}']
    """
    pieces: list[Any] = []
    for i, (name, column) in enumerate(zip(batch.schema.names, batch.columns, strict=True)):
        pieces += [("," if i else "{") + json.dumps(name, ensure_ascii=False) + ":", _json(column)]
    return pc.binary_join_element_wise(*pieces, "}", "", null_handling="replace", null_replacement="null")


def _json(column: Any) -> Any:
    if pa.types.is_fixed_size_list(column.type):
        return list_texts(column, ",", "null", "null")
    if not pa.types.is_string(column.type):
        return number_texts(column, "null", "null")
    encoded = column.dictionary_encode()  # an image has many rows
    texts = [json.dumps(text, ensure_ascii=False) for text in encoded.dictionary.to_pylist()]
    return pa.array(texts, pa.string()).take(encoded.indices)
