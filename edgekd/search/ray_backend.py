"""Runs on several machines through Ray: `edgekd search --ray`. The folder of the search must be one that all of them see."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edgekd.errors import DeviceError, EdgekdError, MissingToolError
from edgekd.workflows.run_setup import DistillJob


class Ray:
    """The workers of a Ray cluster, each with a run at a time."""

    def __init__(self, address: str, *, threads: int) -> None:
        """Join a cluster.

        Args:
            address: of its head, `host:port`; `local`: one of this machine alone, started now.
            threads: processors of a run.

        Raises:
            MissingToolError: Ray is not installed.
            DeviceError: no cluster answers there.
        """
        try:
            import ray
        except ModuleNotFoundError as error:
            raise MissingToolError(
                'Ray is not installed. Install it with: pip install "edgekd[ray]"'
            ) from error
        self._ray: Any = ray
        self._threads = threads
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise DeviceError(f"no Ray cluster at {address}: {error}") from error

    def map(
        self, function: Callable[[DistillJob], None], options: Sequence[DistillJob]
    ) -> Iterator[int]:
        """All at once, as far as there are processors; numbers of runs as they end.

        Raises:
            DeviceError: a worker was lost.
            EdgekdError: of a run.
        """
        remote = self._ray.remote(num_cpus=self._threads, max_retries=1)(function)
        waiting = {remote.remote(each): number for number, each in enumerate(options)}
        while waiting:
            (done, *_), _ = self._ray.wait(list(waiting), num_returns=1)
            try:
                self._ray.get(done)
            except self._ray.exceptions.RayTaskError as error:
                cause = error.cause
                raise cause if isinstance(cause, EdgekdError) else error from None
            except self._ray.exceptions.RayError as error:
                raise DeviceError(
                    f"a worker of the cluster was lost ({type(error).__name__}). The same command goes on from what is done."
                ) from error
            yield waiting.pop(done)

    def __enter__(self) -> "Ray":
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster, and end it where it was started here."""
        self._ray.shutdown()
