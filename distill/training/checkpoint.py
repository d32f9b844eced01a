"""An unfinished run on the disk: what it is, its state, and its images in append-only shards.

    <out>.run/
      run.json       what decides the result; another command is refused
      state.pt       everything but the images, replaced in one step
      pool-*.safetensors, held_out-*.safetensors   batches, written once

Shards are written before the state that names them, and removed after the state that no longer
does, so that a kill at any moment leaves a state with all its images.

Of several ranks the first one has the folder: the others send it what is theirs (pool.1-*, held_out.1-*
of rank 1), and get it back from it. They call the same methods at the same time.
"""

import contextlib
import fcntl
import io
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import safetensors.torch
import torch
from safetensors import SafetensorError

from edgekd.distill.compute.distributed import SINGLE_PROCESS, ProcessGroup
from edgekd.distill.synthesis.image_pool import ImagePool, PoolEntry
from edgekd.errors import InputFileError, UsageError
from edgekd.files import read_text, translate_os_errors, write_atomically
from edgekd.sole_writer import remove_at_once

STATE: Final = "state.pt"
IDENTITY: Final = "run.json"
LOCK: Final = "lock"
# Of a state, what a rank has of its own
OWN: Final = "own"
# The same of every rank, as it is saved
OWNS: Final = "owns"


class Resumable(Protocol):
    """A run that can be saved between two of its steps: its state, and pools that only grow."""

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""

    def pools(self) -> tuple[tuple[str, ImagePool], ...]:
        """Its pools by the names of their shards."""

    def state_dict(self) -> dict[str, Any]:
        """Everything but the pools; under `OWN` what other ranks have otherwise."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it; the pools are there already."""


def _lock(descriptor: int, kind: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(
            f"{path}: another edgekd is working on this run. Wait for it, or choose another --out."
        ) from error


class RunFolder:
    """One run's folder, locked while it is open."""

    def __init__(self, path: Path, *, group: ProcessGroup = SINGLE_PROCESS) -> None:
        self.path = path
        self.group = group
        # Of this rank's pools
        self.shards: dict[str, list[str]] = {}
        self.saved: dict[str, int] = {}

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        path: Path,
        identity: dict[str, Any],
        *,
        restart: bool,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> Iterator["RunFolder"]:
        """Open or make the folder for the run that `identity` describes.

        Args:
            path: of the folder.
            identity: JSON-like; everything that decides the result.
            restart: throw away what an unfinished run left there.
            group: whose run it is.

        Raises:
            UsageError: another process has it open, another command's run is in it, or another rank
                is told otherwise.
        """
        identity = json.loads(json.dumps(identity))
        _require_same(identity, group)
        if not group.is_main:
            yield cls(path, group=group)
            return
        with translate_os_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor, fcntl.LOCK_EX, path)
            folder = cls(path, group=group)
            folder._settle(identity, restart=restart)
            yield folder
        finally:
            os.close(descriptor)

    @staticmethod
    def beside(out: Path) -> Path:
        """Where the unfinished run of an output is."""
        return out.with_name(f"{out.name}.run")

    @staticmethod
    def require_free(path: Path) -> None:
        """Refuse a folder that another process has open, before anything is loaded for it.

        Raises:
            UsageError: one has.
        """
        if not (path / LOCK).exists():
            return
        with translate_os_errors(path):
            descriptor = os.open(path / LOCK, os.O_RDONLY)
        try:
            # Shared: ranks of one job ask at the same time
            _lock(descriptor, fcntl.LOCK_SH, path)
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

    # --- notes ----------------------------------------------------------------------------------

    def note(self, name: str, text: str) -> None:
        """Keep a word that the run needs when it goes on, and that its command does not say."""
        write_atomically(self.path / f"{name}.note", text)

    def read_note(self, name: str) -> str | None:
        """What was noted; None: nothing."""
        path = self.path / f"{name}.note"
        return read_text(path) if path.exists() else None

    def forget(self) -> None:
        """Throw away what was saved, and stay open."""
        for path in self.path.iterdir():
            if path.name not in {LOCK, IDENTITY}:
                path.unlink()
        self.shards = {name: [] for name in self.shards}
        self.saved = dict.fromkeys(self.saved, 0)

    # --- saving ---------------------------------------------------------------------------------

    def save(self, run: Resumable) -> None:
        """Write what is new since the last time."""
        files: dict[str, bytes] = {}
        for name, pool in run.pools():
            files |= self._append(name, pool)
        state = run.state_dict()
        if not self.group.is_main:
            sent = {"shards": self.shards, "files": _as_tensors(files), OWN: state[OWN]}
            self.group.send(_pickle(sent), to=0)
            return
        shards = dict(self.shards)
        owns = [state.pop(OWN, None)]
        self._write(files)
        for rank in range(1, self.group.world_size):
            found = _unpickle(self.group.recv(of=rank), torch.device("cpu"))
            self._write({name: part.numpy().tobytes() for name, part in found["files"].items()})
            shards |= found["shards"]
            owns.append(found[OWN])
        if not self.group.is_single:
            state[OWNS] = owns
        write_atomically(self.path / STATE, _pickle({**state, "shards": shards}))
        kept = {name for names in shards.values() for name in names}
        for path in self.path.glob("*.safetensors"):
            if path.name not in kept:
                path.unlink()

    def _append(self, name: str, pool: ImagePool) -> dict[str, bytes]:
        """The shard of what is new in a pool, by its name; nothing where nothing is."""
        name = self._own(name)
        saved, before = self.saved.get(name, 0), self.shards.get(name, [])
        files: dict[str, bytes] = {}
        # What changes single images has all of them written anew.
        first = max(saved if pool.append_only else 0, pool.first_kept())
        if first < pool.made:
            entries = [pool.entry(number) for number in range(first, pool.made)]
            shard = f"{name}-{first:08d}-{pool.made:08d}.safetensors"
            tensors = {
                "images": torch.stack([entry.images for entry in entries]),
                "classes": torch.stack([entry.classes for entry in entries]),
                "scores": torch.tensor([entry.score for entry in entries], dtype=torch.float64),
            }
            files[shard] = safetensors.torch.save(tensors)
            before = [*(before if pool.append_only else []), shard]
        self.saved[name] = pool.made
        self.shards[name] = [shard for shard in before if _range(shard)[1] > pool.first_kept()]
        return files

    def _own(self, name: str) -> str:
        """What the shards of a pool are called on this rank."""
        return name if self.group.is_main else f"{name}.{self.group.rank}"

    def _write(self, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            write_atomically(self.path / name, data)

    # --- loading ----------------------------------------------------------------------------------

    def load(self, run: Resumable) -> bool:
        """Restore the last saved state into a fresh run; whether there was one.

        Raises:
            InputFileError: a file is damaged.
        """
        try:
            found = self._read(run)
            if found is None:
                return False
            state, files = found
            shards = state.pop("shards")
            if OWNS in state:
                state[OWN] = state.pop(OWNS)[self.group.rank]
            for name, pool in run.pools():
                own = self._own(name)
                self.shards[own] = shards.get(own, [])
                for shard in self.shards[own]:
                    _fill(pool, shard, files(shard))
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
        self.saved = {self._own(name): pool.made for name, pool in run.pools()}
        return True

    def _read(self, run: Resumable) -> tuple[dict[str, Any], Callable[[str], bytes]] | None:
        """The saved state, and what reads a shard by its name; None: nothing was saved."""
        if not self.group.is_main:
            data = self.group.broadcast(b"")
            if not data:
                return None
            files = _unpickle(self.group.recv(of=0), torch.device("cpu"))
            return _unpickle(data, run.device), lambda name: files[name].numpy().tobytes()
        state_file = self.path / STATE
        data = state_file.read_bytes() if state_file.exists() else b""
        state = _unpickle(data, run.device) if data else None
        self.group.broadcast(data)
        if state is None:
            return None
        for rank in range(1, self.group.world_size):
            names = [
                shard
                for name, shards in state["shards"].items()
                for shard in shards
                if name.endswith(f".{rank}")
            ]
            files = {name: (self.path / name).read_bytes() for name in names}
            self.group.send(_pickle(_as_tensors(files)), to=rank)
        return state, lambda name: (self.path / name).read_bytes()

    def discard(self) -> None:
        """Remove the folder: the run's results are in their place."""
        remove_at_once(self.path, of=self.path.with_suffix(""))


def _require_same(identity: dict[str, Any], group: ProcessGroup) -> None:
    """Refuse ranks that were told to make different things, on another machine perhaps.

    Raises:
        UsageError: on every rank.
    """
    first = json.loads(group.broadcast(json.dumps(identity).encode()))
    keys = sorted(first)
    counts = group.all_reduce_sum([int(identity.get(key) != first[key]) for key in keys])
    different = [key for key, count in zip(keys, counts, strict=True) if count]
    if different:
        raise UsageError(
            f"the processes of this job would make different things (different: {', '.join(different)}). "
            "Start them with one command, on machines with the same files and the same precision."
        )


def _fill(pool: ImagePool, shard: str, data: bytes) -> None:
    first, end = _range(shard)
    tensors = safetensors.torch.load(data)
    for number in range(first, end):
        pool.put(
            number,
            PoolEntry(
                images=tensors["images"][number - first],
                classes=tensors["classes"][number - first],
                score=float(tensors["scores"][number - first]),
            ),
        )


def _pickle(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _unpickle(data: bytes, device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    return found


def _as_tensors(files: dict[str, bytes]) -> dict[str, torch.Tensor]:
    """Of the only kind that is read back without running what is in it."""
    return {
        name: torch.frombuffer(bytearray(data), dtype=torch.uint8) for name, data in files.items()
    }


def _range(shard: str) -> tuple[int, int]:
    """First batch of a shard, and the one after its last."""
    first, end = shard.removesuffix(".safetensors").split("-")[1:]
    return int(first), int(end)
