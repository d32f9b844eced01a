"""Reading weight files that nobody vouches for: only tensors come in, nothing is executed."""

import argparse
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from edgekd.distill.architectures import canonical
from edgekd.errors import InputFileError

SUFFIXES: Final = (".pt", ".pth", ".th", ".safetensors")
# Where training scripts put the weights, in the order in which they are looked for.
WRAPPERS: Final = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "teacher",
    "weights",
    "student",
)
PREFIXES: Final = re.compile(r"^((module|model|net|network|_orig_mod|backbone|encoder)\.)+")
METADATA_KEY: Final = "edgekd"


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """What a file holds: tensors by name in our spelling, and what it says of itself."""

    state: dict[str, Tensor]
    raw_names: tuple[str, ...]  # without the common prefix, in the file's spelling
    key: str  # the entry that was taken; "" when the file is the state dict
    metadata: dict[str, Any]


def read_weights(path: Path) -> WeightFile:
    """The state dict of a `.pt`, `.pth`, `.th` or `.safetensors` file.

    Raises:
        InputFileError: missing, empty, truncated, refused because it would execute code, without
            tensors, or with values that are not finite.
    """
    if path.suffix not in SUFFIXES:
        raise InputFileError(f"{path}: expected a file ending in {', '.join(SUFFIXES)}.")
    if not path.is_file():
        what = "a folder, not a weight file" if path.is_dir() else "no such file"
        raise InputFileError(f"{path}: {what}.")
    if path.stat().st_size == 0:
        raise InputFileError(f"{path}: the file is empty. Was the copy cut short?")
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    key, mapping = _unwrapped(path, loaded)
    tensors = {str(name): value for name, value in mapping.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputFileError(
            f"{path}: holds no tensors by name. edgekd takes a state dict, bare or under one of: "
            f"{', '.join(WRAPPERS)}."
        )
    stripped = _without_prefix(tensors)
    _check_values(path, stripped)
    spelt = {canonical(name): tensor for name, tensor in stripped.items()}
    metadata = loaded.get(METADATA_KEY, {}) if isinstance(loaded, Mapping) else {}
    return WeightFile(
        # Two spellings of one part in one file are no spelling of ours: nothing may be lost.
        state=spelt if len(spelt) == len(stripped) else stripped,
        raw_names=tuple(stripped),
        key=key,
        metadata=dict(metadata) if isinstance(metadata, Mapping) else {},
    )


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise InputFileError(
            f"{path}: not a readable safetensors file ({error}). Copy it again."
        ) from error


def _harmless() -> list[Any]:
    """Classes that training scripts leave in checkpoints and that only hold values."""
    import numpy as np

    scalars = (
        np.dtypes.Float64DType,
        np.dtypes.Float32DType,
        np.dtypes.Int64DType,
        np.dtypes.Int32DType,
    )
    # The function that numpy's scalars name when they are pickled.
    scalar = np.float64(0.0).__reduce__()[0]
    # numpy 2 moved the module; files of either spelling are about.
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [argparse.Namespace, np.dtype, *scalars, *((scalar, name) for name in names)]


def _read_pickle(path: Path) -> Any:  # noqa: ANN401
    _refuse_torchscript(path)
    try:
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="Detected pickle protocol"
            )  # it is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except Exception as error:
        # The unpickler is written for files that torch wrote; on any other bytes it fails as it may.
        raise _damaged(path, error) from error


def _refuse_torchscript(path: Path) -> None:
    """A TorchScript archive is a program; torch.load would hand it to torch.jit.load."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            scripted = any(name.endswith("constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise _damaged(path, error) from error
    if scripted:
        raise InputFileError(
            f"{path}: a TorchScript program, not a state dict. Save the weights instead: "
            "torch.save(model.state_dict(), 'teacher.pt')."
        )


_DISALLOWED: Final = re.compile(r"(?:Unsupported (?:global|class)|GLOBAL|global) ([A-Za-z_][\w.]+)")


def _refused(path: Path, error: Exception) -> InputFileError:
    found = _DISALLOWED.search(str(error))
    if found is None and "Unsupported operand" not in str(error):
        return _damaged(path, error)
    wanted = f"asks for {found[1]!r}" if found else "uses instructions that torch.save never writes"
    return InputFileError(
        f"{path}: refused. It is a pickle that can run code when loaded: it {wanted}, so it is more than tensors. "
        "Nothing was executed. Where the network was saved whole, save its weights instead: "
        "torch.save(model.state_dict(), 'teacher.pt')."
    )


def _damaged(path: Path, error: Exception) -> InputFileError:
    lines = str(error).splitlines()
    reason = lines[0][:160] if lines else type(error).__name__
    return InputFileError(
        f"{path}: cannot be read as a weight file ({reason}). Was it cut short, or is it something else?"
    )


def _unwrapped(path: Path, loaded: Any) -> tuple[str, Mapping[Any, Any]]:  # noqa: ANN401
    if not isinstance(loaded, Mapping):
        raise InputFileError(f"{path}: holds a {type(loaded).__name__}, not a state dict.")
    key, inner = "", loaded
    # Wrappers nest at most twice in the wild ({"model": {"state_dict": ...}}).
    for _ in range(2):
        if any(isinstance(value, Tensor) for value in inner.values()):
            break
        name = next((name for name in WRAPPERS if isinstance(inner.get(name), Mapping)), None)
        if name is None:
            break
        key = f"{key}.{name}" if key else name
        inner = inner[name]
    return key, inner


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off what wrappers put before every name (`module.` and the like), never part of a real name."""
    while True:
        prefixes = {(found[0] if (found := PREFIXES.match(name)) else "") for name in tensors}
        shortest = min(prefixes, key=len)
        if not shortest or any(not prefix.startswith(shortest) for prefix in prefixes):
            return tensors
        tensors = {name[len(shortest) :]: tensor for name, tensor in tensors.items()}


def _check_values(path: Path, state: Mapping[str, Tensor]) -> None:
    for name, tensor in state.items():
        if not _plain(tensor):
            raise InputFileError(
                f"{path}: {name} is not a plain dense tensor; save the float weights."
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise InputFileError(
                f"{path}: {name} has {bad:,} values that are NaN or infinite. The training diverged, or "
                "the file is damaged; take an earlier checkpoint."
            )
        if math.prod(tensor.shape) == 0:
            raise InputFileError(f"{path}: {name} is empty, of shape {tuple(tensor.shape)}.")


def _plain(tensor: Tensor) -> bool:
    """Whether every value is there: a view can claim terabytes that a file of a kilobyte repeats."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        return False
    return not tensor.is_meta and tensor.nbytes <= tensor.untyped_storage().nbytes()


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, in the order of the names."""
    digest = sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
