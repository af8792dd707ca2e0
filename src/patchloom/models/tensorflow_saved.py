"""SavedModel folders: whether their graphs would touch files or run Python, and the function to call in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from patchloom.errors import ModelLoadError, PatchloomError, PickleRefusedError
from patchloom.models.identity import file_identity

__all__ = ["check_graph", "folder_identity", "is_saved_model", "load_saved_model", "signature_of"]

GRAPH = "saved_model.pb"
DEFAULT = "serving_default"
PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
FILES = {"WriteFile", "ReadFile", "MatchingFiles", "ImmutableConst", "WholeFileReader", "WholeFileReaderV2",
         "FixedLengthRecordReader", "FixedLengthRecordReaderV2", "TextLineReader", "TextLineReaderV2", "TFRecordReader",
         "TFRecordReaderV2", "TextLineDataset", "TFRecordDataset", "FixedLengthRecordDataset",
         "FixedLengthRecordDatasetV2", "SaveDataset", "SaveDatasetV2", "LoadDataset", "DatasetToTFRecord",
         "CreateSummaryFileWriter", "CreateSummaryDbWriter", "DebugIdentity", "DebugIdentityV2", "DebugIdentityV3",
         "PrintV2", "Print", "RpcCall", "RpcClient", "RpcServer"}  # fmt: skip
"""Operations that read, write or send; a graph that only computes has none of them."""
CHECKPOINTS = {"Save", "SaveV2", "SaveSlices", "MergeV2Checkpoints", "Restore", "RestoreV2", "RestoreSlice"}
"""Every SavedModel has these, beside what is called for a prediction."""


def is_saved_model(path: Path) -> bool:
    """Whether it is a folder that holds a SavedModel."""
    return path.is_dir() and (path / GRAPH).is_file()


def folder_identity(folder: Path) -> str:
    """``sha256:…`` of the names and contents of all files below a folder."""
    files = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    lines = [f"{name} {file_identity(path)}" for name, path in files]
    return f"sha256:{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}"


def load_saved_model(tensorflow: Any, folder: Path, allow_pickle: bool) -> Any:
    """Object in a SavedModel.

    Raises
    ------
    ModelLoadError
        If it is damaged.
    PickleRefusedError
        If its graph calls Python, or touches files.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString((folder / GRAPH).read_bytes())
    except Exception as error:  # protobuf's DecodeError derives from nothing else
        raise _damaged(folder, error) from error
    if not allow_pickle:
        for meta in saved.meta_graphs:
            check_graph(folder, meta.graph_def, PYTHON | FILES)
    try:
        return tensorflow.saved_model.load(str(folder))
    except (MemoryError, PatchloomError):
        raise
    except Exception as error:  # whatever damaged graphs and checkpoints lead to
        raise _damaged(folder, error) from error


def signature_of(folder: Path, loaded: Any, allow_pickle: bool) -> Any:
    """Function that predicts: the signature ``serving_default``, or the only one; None if there are none.

    Raises
    ------
    ModelLoadError
        If there are several, and none is the default.
    PickleRefusedError
        If it writes or reads checkpoints.
    """
    signatures = dict(loaded.signatures)
    if not signatures:
        return None
    if DEFAULT not in signatures and len(signatures) > 1:
        raise ModelLoadError(
            f"{folder} has the signatures {', '.join(sorted(signatures))}",
            f"save the one that predicts as {DEFAULT!r}",
        )
    signature = signatures.get(DEFAULT) or next(iter(signatures.values()))
    if not allow_pickle:
        check_graph(folder, signature.graph.as_graph_def(), PYTHON | FILES | CHECKPOINTS)
    return signature


def check_graph(folder: Path, graph: Any, refused: Iterable[str]) -> None:
    """Raise PickleRefusedError if a graph, or a function in it, has an operation that is refused."""
    found = sorted(set(refused).intersection(_operations(graph)))
    if found:
        raise PickleRefusedError(
            f"{folder} has the operations {', '.join(found)}, which touch files or call Python",
            "export it without them; or --allow-pickle, if you trust the model",
        )


def _operations(graph: Any) -> Iterator[str]:
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        for node in nodes:
            yield node.op


def _damaged(folder: Path, error: object) -> ModelLoadError:
    reason = " ".join(str(error).split())[:300]
    return ModelLoadError(f"{folder} is damaged, or no SavedModel: {reason}", "save or copy the model again")
