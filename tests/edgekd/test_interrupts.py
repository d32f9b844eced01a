"""A signal is no answer of a library."""

import os
import signal

import pytest

from edgekd.errors import InterruptedRunError, TerminatedRunError
from edgekd.interrupts import caught


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGINT, InterruptedRunError), (signal.SIGTERM, TerminatedRunError)],
    ids=["SIGINT", "SIGTERM"],
)
def test_a_signal_inside_of_a_library_is_not_taken_for_its_failure(number, kind):
    def export():
        try:
            os.kill(os.getpid(), number)
        except Exception as error:
            raise ValueError("the exporter cannot write this network") from error

    with pytest.raises(kind, match="the same command continues") as found, caught():
        export()
    assert type(found.value) is kind
