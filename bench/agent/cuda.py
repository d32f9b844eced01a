"""CUDA's runtime through ctypes: memory on the device, one stream, and what the device is."""

import ctypes
from typing import Any, List, Optional

from edgekd.bench.agent.errors import RefusedError

# By JetPack, newest first; the plain name is there where the development files are.
NAMES = (
    "libcudart.so",
    "libcudart.so.13",
    "libcudart.so.12",
    "libcudart.so.11.0",
    "libcudart.so.10.2",
)
FOLDERS = ("", "/usr/local/cuda/lib64/")
# Values of cudaError, cudaMemcpyKind and cudaDeviceAttr that have been the same since CUDA 5.
OUT_OF_MEMORY = 2
TO_DEVICE = 1
TO_HOST = 2
COMPUTE_MAJOR = 75
COMPUTE_MINOR = 76


def find_library(path: Optional[str] = None) -> Any:
    """The shared library of CUDA's runtime.

    Args:
        path: of the file; None: where it usually lies.

    Raises:
        RefusedError: it is not there, or does not load.
    """
    tried = [path] if path else [folder + name for folder in FOLDERS for name in NAMES]
    problems: List[str] = []
    for name in tried:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            problems.append(str(error))
    raise RefusedError("missing-runtime", "CUDA's runtime: " + problems[0])


class Cuda:
    """One device and one stream. Freed when the block ends."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._held: List[ctypes.c_void_p] = []
        self._stream = ctypes.c_void_p()

    def __enter__(self) -> "Cuda":
        self._check(
            self._library.cudaStreamCreate(ctypes.byref(self._stream)), "the first call to a GPU"
        )
        return self

    def __exit__(self, *error: Any) -> None:
        while self._held:
            self._library.cudaFree(self._held.pop())
        self._library.cudaStreamDestroy(self._stream)

    @property
    def stream(self) -> int:
        return self._stream.value or 0

    def sm(self) -> str:
        """Compute capability of the device, "8.7"."""
        return "{}.{}".format(self._attribute(COMPUTE_MAJOR), self._attribute(COMPUTE_MINOR))

    def allocate(self, size: int) -> int:
        """The address of that many bytes on the device."""
        pointer = ctypes.c_void_p()
        self._check(
            self._library.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size)),
            "{} bytes on the device".format(size),
        )
        self._held.append(pointer)
        return pointer.value or 0

    def copy_in(self, address: int, data: bytes) -> None:
        self._copy(ctypes.c_void_p(address), data, len(data), TO_DEVICE)

    def copy_out(self, address: int, size: int) -> bytes:
        buffer = ctypes.create_string_buffer(size)
        self._copy(buffer, ctypes.c_void_p(address), size, TO_HOST)
        return buffer.raw

    def wait(self) -> None:
        """Until the stream has done all that was asked."""
        self._check(self._library.cudaStreamSynchronize(self._stream), "running the engine")

    def _copy(self, to: Any, given: Any, size: int, kind: int) -> None:
        self._check(self._library.cudaMemcpy(to, given, ctypes.c_size_t(size), kind), "a copy")

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._check(
            self._library.cudaDeviceGetAttribute(ctypes.byref(value), number, 0), "asking the GPU"
        )
        return value.value

    def _check(self, code: int, what: str) -> None:
        if code == 0:
            return
        kind = "out-of-memory" if code == OUT_OF_MEMORY else "missing-runtime"
        raise RefusedError(kind, "CUDA error {} at: {}".format(code, what))
