"""Stands in for libcudart through ctypes: device memory is the host's."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest


class Cudart:
    """Functions with CUDA's names, arguments and error codes."""

    def __init__(self, *, sm=(8, 7), memory=2**30):
        self.sm = sm
        self.memory = memory
        self.held = {}
        self.streams = 0

    def cudaStreamCreate(self, stream):  # noqa: N802
        self.streams += 1
        stream._obj.value = 0xE0
        return 0

    def cudaStreamDestroy(self, stream):  # noqa: N802
        self.streams -= 1
        return 0

    def cudaStreamSynchronize(self, stream):  # noqa: N802
        return 0 if stream.value == 0xE0 else 400  # cudaErrorInvalidResourceHandle

    def cudaDeviceGetAttribute(self, value, attribute, device):  # noqa: N802
        value._obj.value = {75: self.sm[0], 76: self.sm[1]}[attribute]
        return 0

    def cudaMalloc(self, pointer, size):  # noqa: N802
        if size.value > self.memory:
            return 2  # cudaErrorMemoryAllocation
        buffer = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(buffer)
        self.held[ctypes.addressof(buffer)] = buffer
        return 0

    def cudaFree(self, pointer):  # noqa: N802
        del self.held[pointer.value]
        return 0

    def cudaMemcpy(self, to, given, size, kind):  # noqa: N802
        assert kind in {1, 2}
        ctypes.memmove(to, given, size.value)
        return 0


def build_cudart(folder):
    """The same as a shared library, for processes that load one."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    folder.mkdir()
    library = folder / "libcudart.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library
