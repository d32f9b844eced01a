"""An unfinished run on the disk: what it is, its state, and its images in append-only shards.

    <out>.run/
      run.json       what decides the result; another command is refused
      state.pt       everything but the images, replaced in one step
      pool-*.safetensors, held_out-*.safetensors   batches, written once

Shards are written before the state that names them, and removed after the state that no longer
does, so that a kill at any moment leaves a state with all its images.
"""

import contextlib
import fcntl
import io
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import safetensors.torch
import torch
from safetensors import SafetensorError

from edgekd.distill.memory import Entry, ImagePool
from edgekd.errors import InputFileError, UsageError
from edgekd.files import explained, read_text, write_atomically

STATE: Final = "state.pt"
IDENTITY: Final = "run.json"
LOCK: Final = "lock"


class Resumable(Protocol):
    """A run that can be saved between two of its steps: its state, and pools that only grow."""

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""

    def pools(self) -> tuple[tuple[str, ImagePool], ...]:
        """Its pools by the names of their shards."""

    def state_dict(self) -> dict[str, Any]:
        """Everything but the pools."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it; the pools are there already."""


class RunFolder:
    """One run's folder, locked while it is open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shards: dict[str, list[str]] = {"pool": [], "held_out": []}
        self.saved: dict[str, int] = {"pool": 0, "held_out": 0}

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls, path: Path, identity: dict[str, Any], *, restart: bool
    ) -> Iterator["RunFolder"]:
        """Open or make the folder for the run that `identity` describes.

        Args:
            path: of the folder.
            identity: JSON-like; everything that decides the result.
            restart: throw away what an unfinished run left there.

        Raises:
            UsageError: another process has it open, or another command's run is in it.
        """
        with explained(path):
            path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    f"{path}: another edgekd is working on this run. Wait for it, or choose another --out."
                ) from error
            folder = cls(path)
            folder._settle(json.loads(json.dumps(identity)), restart=restart)
            yield folder
        finally:
            os.close(descriptor)

    def _settle(self, identity: dict[str, Any], *, restart: bool) -> None:
        known = self.path / IDENTITY
        if restart:
            for entry in self.path.iterdir():
                if entry.name != LOCK:
                    entry.unlink()
        if known.exists():
            try:
                found = json.loads(read_text(known))
            except ValueError as error:
                raise InputFileError(f"{known}: damaged. Start over with --restart.") from error
            different = sorted(
                key for key in {*found, *identity} if found.get(key) != identity.get(key)
            )
            if different:
                raise UsageError(
                    f"{self.path} holds an unfinished run of another command (different: "
                    f"{', '.join(different)}). Repeat that command, choose another --out, or throw it "
                    "away with --restart."
                )
        write_atomically(known, json.dumps(identity, indent=1, sort_keys=True) + "\n")

    # --- saving ---------------------------------------------------------------------------------

    def save(self, run: Resumable) -> None:
        """Write what is new since the last time."""
        for name, pool in run.pools():
            self._append(name, pool)
        buffer = io.BytesIO()
        torch.save({**run.state_dict(), "shards": self.shards}, buffer)
        write_atomically(self.path / STATE, buffer.getvalue())
        kept = {name for names in self.shards.values() for name in names}
        for path in self.path.glob("*.safetensors"):
            if path.name not in kept:
                path.unlink()

    def _append(self, name: str, pool: ImagePool) -> None:
        first = max(self.saved[name], pool.first_kept())
        if first < pool.made:
            entries = [pool.entry(number) for number in range(first, pool.made)]
            shard = f"{name}-{first:08d}-{pool.made:08d}.safetensors"
            tensors = {
                "images": torch.stack([entry.images for entry in entries]),
                "classes": torch.stack([entry.classes for entry in entries]),
                "scores": torch.tensor([entry.score for entry in entries], dtype=torch.float64),
            }
            write_atomically(self.path / shard, safetensors.torch.save(tensors))
            self.shards[name].append(shard)
        self.saved[name] = pool.made
        self.shards[name] = [
            shard for shard in self.shards[name] if _range(shard)[1] > pool.first_kept()
        ]

    # --- loading ----------------------------------------------------------------------------------

    def load(self, run: Resumable) -> bool:
        """Restore the last saved state into a fresh run; whether there was one.

        Raises:
            InputFileError: a file is damaged.
        """
        state_file = self.path / STATE
        if not state_file.exists():
            return False
        try:
            state = torch.load(state_file, map_location=run.device, weights_only=True)
            self.shards = state.pop("shards")
            for name, pool in run.pools():
                for shard in self.shards[name]:
                    self._fill(pool, shard)
            run.load_state_dict(state)
        except (
            OSError,
            RuntimeError,
            ValueError,
            KeyError,
            EOFError,
            SafetensorError,
            pickle.UnpicklingError,
        ) as error:
            raise InputFileError(
                f"{self.path}: the saved run is damaged ({error}). Start over with --restart."
            ) from error
        self.saved = {name: pool.made for name, pool in run.pools()}
        return True

    def _fill(self, pool: ImagePool, shard: str) -> None:
        first, end = _range(shard)
        tensors = safetensors.torch.load_file(self.path / shard)
        for number in range(first, end):
            pool.made = number
            pool.add(
                Entry(
                    images=tensors["images"][number - first],
                    classes=tensors["classes"][number - first],
                    score=float(tensors["scores"][number - first]),
                )
            )

    def discard(self) -> None:
        """Remove the folder: the run's results are in their place."""
        shutil.rmtree(self.path)


def _range(shard: str) -> tuple[int, int]:
    """First batch of a shard, and the one after its last."""
    first, end = shard.removesuffix(".safetensors").split("-")[1:]
    return int(first), int(end)
