"""`edgekd doctor`."""

import sys

from edgekd.cli.framework.options import Json
from edgekd.errors import MissingToolError


def doctor(as_json: Json = False) -> None:
    """Show what can run on this machine, what cannot, and what to install."""
    from edgekd.cli.framework.output import print_record
    from edgekd.doctor.collect import examine
    from edgekd.doctor.report import diagnosis

    sys.stderr.write("doctor   asks the libraries, in processes of their own: some seconds\n")
    found = examine()
    if as_json:
        print_record(found, "doctor")
    else:
        print(diagnosis(found))
    if not found.works:
        broken = [state.command for state in found.commands if not state.works]
        raise MissingToolError(
            f"these commands cannot run here: {', '.join(broken)}. What to install is said above."
        )
