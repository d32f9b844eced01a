"""What the agent refuses, told apart so that the host can say what to do."""

# The process that runs the model; edgekd's own code for a device that was lost
DIED = 6
# By kind, the code that the process exits with: that of edgekd's own table of failures.
CODES = {
    "inputs": 2,
    "not-a-model": 2,
    "not-runnable": 2,
    "protocol": 2,
    "state": 2,
    "digest": 2,
    "missing-runtime": 3,
    "deviates": 4,
    "not-buildable": 8,
    "other-version": 8,
    "out-of-memory": 8,
    "busy": DIED,
    "died": DIED,
    "no-sampler": DIED,
}


class RefusedError(Exception):
    """The request cannot be carried out; `kind` is one of `CODES`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.exit_code = CODES[kind]
