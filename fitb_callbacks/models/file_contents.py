"""Inspect a model's files before loading them: they may be broken or hostile.

`torch.export.load` unpickles what an archive holds, evaluates its shape expressions as Python, imports modules that it
names and compiles code from it. So an archive is refused unless all of it is what `torch.export.save` writes for a
plain network: JSON whose every string is of a known harmless form, raw tensors, and pickles of tensors only.
"""

from __future__ import annotations

import ast
import io
import json
import pickletools
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

__all__ = ["PickledContentError", "check_checkpoint", "check_export", "check_hyperparameters"]

_MOST_MEMBERS = 100_000
_LARGEST_TEXT = 2**28  # bytes of JSON: 256 MiB

# What torch.save needs for tensors in plain containers
_GLOBALS = re.compile(
    r"collections\.OrderedDict"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\.(Size|device|\w+Storage|float\d*|bfloat16|float16|double|half|u?int\d+|long|int|short|bool|strided)"
    r"|torch\.storage\.UntypedStorage"
    r"|torch\.serialization\._get_layout"
)
_RUN_CODE = {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"}

# Members of an archive, below its top folder
_TENSOR = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
_CONFIG = re.compile(r"data/(weights|constants)/\w+_config\.json")
_PROGRAM = re.compile(r"(models/\w+|serialized_\w+)\.json")
_SAVED = re.compile(r"(data/(sample_inputs|weights|constants)/\w+|serialized_\w+)\.(pt|json)")
_MARKER = re.compile(r"version|archive_format|archive_version|byteorder|(\.data|\.format)/\w+|\.format_version")
_MARKER_TEXT = re.compile(rb"[\w.\-]{0,64}\n?")

# Strings of a program
_PLAIN = re.compile(r"[\w.+\- ]*")
_TARGET = re.compile(
    r"torch\.ops\.(aten|prim|prims|quantized_decomposed)\.\w+(\.\w+)?"
    r"|torch\.ops\.higher_order\.(cond|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|torch\.sym_\w+|torch\._sym_sqrt|_operator\.\w+|math\.\w+"
)
_FREE_TEXT = {"stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node", "custom", "as_string"}
_SPEC_TYPE = re.compile(r"builtins\.(tuple|list|dict)|collections\.OrderedDict|transformers\.modeling_outputs\.\w+")


class PickledContentError(ValueError):
    """A file holds Python objects that only pickle loads, and loading them would run code."""


def check_export(path: Path) -> None:
    """Raise unless loading an exported model (``.pt2``) can run no code of its own.

    Args:
        path: The archive.

    Raises:
        PickledContentError: If it holds pickled objects other than tensors.
        ValueError: If it is damaged, or holds anything else that `torch.export.save` does not write.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "model.pt2")
        ...     exported = torch.export.export(torch.nn.Linear(2, 3).eval(), (torch.rand(2, 2),))
        ...     torch.export.save(exported, file)
        ...     check_export(file)
        ...     _ = file.write_bytes(file.read_bytes()[:500])
        ...     check_export(file)
        Traceback (most recent call last):
        ...
        ValueError: it is damaged or was not written completely: File is not a zip file
    """
    with _opened(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                _check_member(archive, info)


def check_checkpoint(path: Path) -> None:
    """Raise unless a file is of the kind that ``torch.load(weights_only=True)`` reads safely on every torch version.

    Args:
        path: What ``torch.save`` wrote.

    Raises:
        PickledContentError: If it is a TorchScript archive, which old versions of torch load without restriction.
        ValueError: If it is damaged.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                raise PickledContentError("it is a TorchScript archive")
        _opened(path).close()
        return
    with path.open("rb") as file:
        start = file.read(600)
    if start[257:262] == b"ustar":
        raise PickledContentError("it is a tar archive of an old version of torch")


def check_hyperparameters(content: Mapping[str, Any]) -> None:
    """Raise PickledContentError if a Lightning checkpoint names a function that builds the module.

    LightningCLI stores it as ``_instantiator``; some versions of Lightning import and call whatever is named there.
    """
    for key in ("hyper_parameters", "datamodule_hyper_parameters"):
        named = content.get(key)
        if isinstance(named, Mapping) and "_instantiator" in named:
            raise PickledContentError(f"its {key} name a function to build the module, {named['_instantiator']!r:.80}")


class _opened(zipfile.ZipFile):  # noqa: N801 - used as a function
    """A zip archive of members that are stored as they are: it cannot become larger than it is."""

    def __init__(self, file: Path | IO[bytes]) -> None:
        try:
            super().__init__(file)
        except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
            raise ValueError(f"it is damaged or was not written completely: {error}") from error
        if len(self.infolist()) > _MOST_MEMBERS:
            raise ValueError(f"it is an archive of more than {_MOST_MEMBERS} members")
        if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in self.infolist()):
            raise ValueError("it is a compressed or encrypted archive, which torch does not write")
        assert self.fp is not None
        self.fp.seek(0, io.SEEK_END)
        if sum(info.file_size for info in self.infolist()) > self.fp.tell():
            raise ValueError("it is an archive whose members overlap, which torch does not write")


def _check_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """One member of an exported model: known by name, harmless by content."""
    name = info.filename.partition("/")[2] if not _is_at_top(info.filename) else info.filename
    if _TENSOR.fullmatch(name):
        return
    if _MARKER.fullmatch(name):
        if info.file_size > 100 or not _MARKER_TEXT.fullmatch(_content(archive, info)):
            raise ValueError(f"its member {info.filename} is not what torch writes")
        return
    if not (_SAVED.fullmatch(name) or _CONFIG.fullmatch(name) or _PROGRAM.fullmatch(name)):
        kind = PickledContentError if "constants/" in name else ValueError
        raise kind(f"it holds {info.filename[-80:]!r}, which is neither a tensor nor the description of a network")
    with archive.open(info) as member:
        start = member.read(4)
    if start[:2] == b"PK":
        _check_saved(io.BytesIO(_content(archive, info)), info.filename)
    elif start[:1] == b"\x80":
        raise PickledContentError(f"its member {info.filename} is a pickle")
    else:
        _check_json(_content(archive, info), info.filename, config=bool(_CONFIG.fullmatch(name)))


def _is_at_top(name: str) -> bool:
    """Whether a member lies at the top, as before torch 2.7, instead of in a folder named after the file."""
    return "/" not in name or name.startswith((".data/", "data/", "models/"))


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise ValueError(f"it is damaged or was not written completely: {error}") from error


def _check_saved(file: IO[bytes], name: str) -> None:
    """What torch.save wrote: its pickle may name nothing but tensors and plain containers."""
    with _opened(file) as archive:
        for info in archive.infolist():
            if info.filename.endswith("constants.pkl"):
                raise PickledContentError(f"its member {name} is a TorchScript archive")
            if info.filename.endswith(".pkl"):
                for found in _globals_of(_content(archive, info)):
                    if not _GLOBALS.fullmatch(found):
                        raise PickledContentError(f"its member {name} holds {found}, which only pickle loads")


def _globals_of(pickled: bytes) -> Iterator[str]:
    """What a pickle would import, read from its operations without running any of them."""
    strings: list[str] = []
    try:
        for operation, argument, _ in pickletools.genops(pickled):
            if operation.name in _RUN_CODE:
                yield operation.name
            elif operation.name == "GLOBAL":
                yield str(argument).replace(" ", ".", 1)
            elif operation.name == "STACK_GLOBAL":
                yield ".".join(strings[-2:]) if len(strings) > 1 else "a name that cannot be read"
            if isinstance(argument, str) and "UNICODE" in operation.name:
                strings.append(argument)
            elif operation.name not in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
                strings = []
    except Exception as error:  # of whatever the bytes are
        raise ValueError(f"it is damaged: {error}") from error


def _check_json(content: bytes, name: str, *, config: bool) -> None:
    if len(content) > _LARGEST_TEXT:
        raise ValueError(f"its member {name} is larger than {_LARGEST_TEXT} bytes")
    try:
        described = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its member {name} is damaged: {error}") from error
    if config:
        _check_config(described, name)
    for problem in _problems(described):
        raise ValueError(f"its member {name} holds {problem[:120]!r}, which torch does not write for a network")


def _check_config(described: Any, name: str) -> None:
    """Which file each tensor is in: none may be a pickle."""
    entries = described.get("config") if isinstance(described, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ValueError(f"its member {name} is damaged")
    for key, entry in entries.items():
        if entry.get("use_pickle") or not re.fullmatch(r"(weight|tensor)_\d+", str(entry.get("path_name"))):
            raise PickledContentError(f"its weight {key[:80]!r} is a Python object, which only pickle loads")


def _problems(described: Any) -> Iterator[str]:
    """Yield every string that could be more than a name, a number or a known operation."""
    stack: list[tuple[str, Any]] = [("", described)]
    while stack:
        key, value = stack.pop()
        if isinstance(value, dict):
            yield from (name for name in value if not _PLAIN.fullmatch(name))
            stack += value.items()
        elif isinstance(value, list):
            stack += ((key, item) for item in value)
        elif isinstance(value, str) and not _harmless(key, value):
            yield value


def _harmless(key: str, text: str) -> bool:
    if key in _FREE_TEXT:
        return True
    if key == "target":
        return _TARGET.fullmatch(text) is not None
    if key in ("in_spec", "out_spec"):
        return _is_plain_spec(text)
    if key in ("expr_str", "guards_code"):
        return _is_arithmetic(text)
    return _PLAIN.fullmatch(text) is not None


def _is_plain_spec(text: str) -> bool:
    """Whether the nesting of a network's inputs is of plain containers: other kinds import what they name."""
    if not text:
        return True
    try:
        _, spec = json.loads(text)
        specs = [spec]
        while specs:
            part = specs.pop()
            if part["type"] is not None and not _SPEC_TYPE.fullmatch(part["type"]):
                return False
            context = json.loads(part["context"]) if part["context"] else None
            if not _are_plain(context if isinstance(context, list) else [context]):
                return False
            specs += part["children_spec"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return False
    return True


def _are_plain(keys: Iterable[Any]) -> bool:
    return all(key is None or isinstance(key, int) or (isinstance(key, str) and _PLAIN.fullmatch(key)) for key in keys)


_ARITHMETIC = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop),
    *(ast.cmpop, ast.Constant, ast.Name, ast.Load, ast.Call, ast.Subscript, ast.Attribute, ast.keyword),
)
_FUNCTION = re.compile(
    r"Max|Min|Mod|FloorDiv|CleanDiv|CeilDiv|PythonMod|ModularIndexing|Eq|Ne|Gt|Ge|Lt|Le|And|Or|Not|Integer|Float"
    r"|Rational|IntTrueDiv|FloatTrueDiv|ToFloat|TruncToInt|FloorToInt|CeilToInt|RoundToInt|Pow|PowByNatural"
    r"|FloatPow|Abs|Add|Mul|floor|ceiling|Piecewise|ExprCondPair|Tuple|Where|Identity|Symbol|Equality|Unequality"
    r"|GreaterThan|LessThan|StrictGreaterThan|StrictLessThan|size"
)


def _is_arithmetic(text: str) -> bool:
    """Whether an expression is of sizes only: these are evaluated as Python code."""
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, _ARITHMETIC) and _is_named_well(node) for node in nodes)


def _is_named_well(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        called = node.func
        name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
        return _FUNCTION.fullmatch(name) is not None and all(
            isinstance(each.value, ast.Constant) for each in node.keywords
        )
    if isinstance(node, ast.Attribute):
        return node.attr == "size"
    if isinstance(node, ast.Name):
        return "__" not in node.id
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (bool, int, float)) or (
            isinstance(node.value, str) and _PLAIN.fullmatch(node.value) is not None
        )
    return True
