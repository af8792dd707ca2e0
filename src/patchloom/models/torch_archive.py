"""What a PyTorch file is, found out without unpickling anything, and whether loading it would run code.

An exported program (``.pt2``) looks like data, and PyTorch 2.13 still runs code out of it in several ways: tensors and
sample inputs may be pickles, compiled packages are native libraries, names of operators are looked up as attributes
of ``torch``, and symbolic sizes go through ``sympify``, which evaluates them. All are looked for before loading.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from patchloom.errors import ModelLoadError, PatchloomError, PickleRefusedError

__all__ = ["FileKind", "check_exported", "file_kind", "refused_pickle"]

FileKind = Literal["torchscript", "exported", "pickle", "safetensors"]

OPERATOR = re.compile(
    r"torch\.ops\.(?!higher_order\.)[A-Za-z]\w*\.(?!_)\w+(\.[A-Za-z]\w*)?"
    r"|torch\.ops\.higher_order\.(cond|map_impl|while_loop|scan|associative_scan|wrap_with_set_grad_enabled"
    r"|wrap_with_autocast)"
    r"|_operator\.[a-z]+|math\.[a-z0-9]+|torch\.(sym_\w+|_sym_sqrt|_C\._nn\.\w+)"
)
SYMBOLIC = set(re.findall(r"\w+", """
    Symbol Integer Float Rational Add Mul Pow Mod Max Min Abs floor ceiling sqrt Eq Ne Lt Le Gt Ge Equality Unequality
    LessThan StrictLessThan GreaterThan StrictGreaterThan And Or Not Piecewise ExprCondPair true false True False
    positive negative nonnegative nonpositive integer real zero finite infinite even odd precision oo int_oo
    FloorDiv CeilDiv CleanDiv IntTrueDiv FloatTrueDiv PythonMod ModularIndexing Where LShift RShift PowByNatural
    FloatPow IsNonOverlappingAndDenseIndicator TruncToFloat TruncToInt FloorToInt CeilToInt RoundToInt RoundDecimal
    ToFloat Identity Tuple
"""))
NUMBER = re.compile(r"\b\d+(\.\d*)?([eE][+-]?\d+)?")
SYMBOL = re.compile(r"'[A-Za-z]\w*'|\b[suz]f?\d+\b|\bzuf\d+\b|\bu_?\d+\b")
COMPILED = re.compile(r"(^|/)(data/)?aotinductor/|\.(so|dll|dylib|cubin|hsaco)$")


def file_kind(path: Path) -> FileKind:
    """Kind of a file by its content; `pickle` is what ``torch.save`` writes, a state dict or a whole module.

    Raises
    ------
    ModelLoadError
        If it is none of them.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
        if head[:4] == b"PK\x03\x04":
            return _archive_kind(path)
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror or error}", "check the file") from error
    if len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "pickle"
    raise damaged(path)


def damaged(path: Path, reason: str = "") -> ModelLoadError:
    """Error for a file that is not what its name says."""
    why = f": {reason}" if reason else ""
    return ModelLoadError(f"{path} is damaged, or no PyTorch file{why}", "save or copy the model again")


def refused_pickle(path: Path, what: str) -> PickleRefusedError:
    """Error for a file that may run code when it is loaded."""
    return PickleRefusedError(
        f"{path} {what}: loading it runs code out of the file",
        "save a state dict, TorchScript or ONNX instead; or --allow-pickle, if you trust the file",
    )


def _archive_kind(path: Path) -> FileKind:
    names = _names(path)
    if any(name.startswith("code/") for name in names) and "constants.pkl" in names:
        return "torchscript"
    if names & {"archive_format", "serialized_exported_program.json"}:
        return "exported"
    if "data.pkl" in names:
        return "pickle"
    raise damaged(path)


def _names(path: Path) -> set[str]:
    """Names inside, without the folder that most of them share."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise damaged(path, str(error)) from error
    return {name for full in names for name in (full, full.partition("/")[2])}


def check_exported(path: Path) -> None:
    """Raise PickleRefusedError if loading an exported program could run code out of the file."""
    try:
        for name, read in _entries(path):
            _check_entry(path, name.lower(), read)
    except PatchloomError:
        raise
    except (zipfile.BadZipFile, ValueError, NotImplementedError, KeyError, RecursionError, EOFError) as error:
        raise damaged(path, str(error)) from error


def _entries(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Entries as both Python and PyTorch read the archive: a crafted file might show them different ones."""
    import torch

    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len({name.lower() for name in names}) != len(names):  # PyTorch looks names up without regard to case
            raise refused_pickle(path, "holds two entries of one name")
        for name in names:
            yield name, partial(archive.read, name)
    try:
        reader = torch._C.PyTorchFileReader(str(path))
    except RuntimeError:  # written before PyTorch 2.8, and read through Python
        return
    for name in reader.get_all_records():
        yield name, partial(reader.get_record, name)


def _check_entry(path: Path, name: str, read: Callable[[], bytes]) -> None:
    if COMPILED.search(name):
        raise refused_pickle(path, "holds compiled code")
    if name.endswith((".pt", ".pkl")):
        _check_pickle(path, read(), name)
    elif name.endswith(".json") or "models/" in name:
        for key, value in _pairs(json.loads(read())):
            _check_pair(path, key, value)


def _check_pickle(path: Path, data: bytes, name: str) -> None:
    import torch

    try:
        if data:
            torch.load(BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # whatever it is, PyTorch would next unpickle it without restraint
        raise refused_pickle(path, f"holds a pickle of more than tensors ({name})") from error


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values, at any depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from _pairs(item)
    elif isinstance(value, list):
        for item in value:
            yield from _pairs(item)


def _check_pair(path: Path, key: str, value: Any) -> None:
    if key == "use_pickle" and value:
        raise refused_pickle(path, "holds pickled tensors")
    if key == "path_name" and re.match(r"opaque|custom_obj", str(value)):
        raise refused_pickle(path, "holds pickled objects")
    if key in ("target", "as_operator") and isinstance(value, str) and not OPERATOR.fullmatch(value):
        raise refused_pickle(path, f"calls {value!r}, which is no tensor operator")
    if key in ("expr_str", "range_constraints") and not all(_is_symbolic(text) for text in _texts(key, value)):
        raise refused_pickle(path, "holds a size that is no arithmetic")
    if key in ("in_spec", "out_spec") and re.search(r"defaultdict|fqn|__enum__", str(value)):
        raise refused_pickle(path, "names Python classes")


def _texts(key: str, value: Any) -> list[str]:
    return [str(item) for item in value] if key == "range_constraints" and isinstance(value, dict) else [str(value)]


def _is_symbolic(text: str) -> bool:
    rest = SYMBOL.sub(" ", text)
    if not re.fullmatch(r"[\w\s()+\-*/%,=<>.&|~]*", rest) or re.search(r"\.\s*[^\W\d]|__", rest):
        return False
    return all(word in SYMBOLIC for word in re.findall(r"[^\W\d]\w*", NUMBER.sub(" ", rest)))
