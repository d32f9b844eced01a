"""Reading `.pt2` archives of `torch.export.save` by hand: no torch, and nothing is ever unpickled.

`torch.export.load` goes on to `torch.load(weights_only=False)` wherever a payload says so. Here the
graph is JSON, the weights are raw bytes whose claims are compared with what is there, and the pickles
that every archive carries (sample inputs) are not opened.

The layout is that of torch 2.9 to 2.15, schema 8: `models/model.json`, `data/weights/` and
`data/constants/`, each with a JSON that says which bytes are which tensor.
"""

from pathlib import Path

from edgekd.distill.teachers.pt2.archive import AGAIN, model_of, open_archive, root_of
from edgekd.distill.teachers.pt2.graph import archive_of
from edgekd.distill.teachers.pt2.records import Archive
from edgekd.distill.teachers.pt2.schema import JsonProgram, read_json
from edgekd.distill.teachers.pt2.tensors import check_claims, read_payloads
from edgekd.errors import InputFileError


def read_archive(path: Path) -> Archive:
    """The program in a `.pt2` file, without the values of its weights.

    Raises:
        InputFileError: not such an archive, damaged, or refused; the message says which and what to do.
    """
    with open_archive(path) as archive:
        root = root_of(path, archive)
        names = set(archive.namelist())
        model = model_of(path, root, names)
        weights = read_payloads(path, archive, root, model, "weights")
        constants = read_payloads(path, archive, root, model, "constants")
        program = read_json(path, archive, f"{root}models/{model}.json", JsonProgram)
        byteorder = f"{root}byteorder"
        if byteorder in names and archive.getinfo(byteorder).file_size != len("little"):
            raise InputFileError(f"{path}: written on a big-endian machine. {AGAIN}")
    check_claims(path, [*weights.values(), *constants.values()])
    return archive_of(path, program, weights, constants)
