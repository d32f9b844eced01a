"""What commands print: results on stdout, progress on stderr."""

import os
import sys

from edgekd.api.events import EventPrinter
from edgekd.progress import display_for
from edgekd.records import to_json


def rank() -> int:
    """Which of the processes that `torchrun` started this is; 0 without it."""
    return int(os.environ.get("RANK", "0"))


def print_events() -> EventPrinter:
    """A callback that shows events on stderr; of several processes the first shows them."""
    return EventPrinter(display_for(sys.stderr.isatty(), leads=rank() == 0))


def print_record(value: object, schema: str) -> None:
    """Print a record as JSON on stdout."""
    sys.stdout.write(to_json(value, schema=schema))


def print_json(value: object) -> None:
    """Print plain values as JSON on stdout."""
    import json

    print(json.dumps(value, indent=1))
