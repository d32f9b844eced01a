"""What the agent refuses, told apart so that the host can say what to do."""


class RefusedError(Exception):
    """The request cannot be carried out.

    `kind` is one of: missing-runtime, not-a-model, not-runnable, inputs.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.exit_code = 3 if kind == "missing-runtime" else 2
