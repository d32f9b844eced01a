"""Atheris on the readers of archives and manifests: `python fuzz_archive.py FOLDER SECONDS archive|manifest`.

FOLDER holds b.tar and b, to start from. A crash ends it with a code and the bytes that made it.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["edgekd.bundle.archive", "edgekd.bundle.verification", "edgekd.records"]
):
    from edgekd.bundle import archive, verification
    from edgekd.errors import EdgekdError
    from edgekd.records import from_json
    from edgekd.records.manifest import Manifest


def archive_of(data: bytes, folder: Path) -> None:
    path = folder / "atheris.tar"
    path.write_bytes(data)
    verification.verify_bundle(path)


def manifest_of(data: bytes, _: Path) -> None:
    from_json(Manifest, data, origin="x", schema="manifest")


def main() -> None:
    folder, seconds, what = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    corpus = folder / f"corpus-{what}"
    corpus.mkdir(exist_ok=True)
    start = folder / ("b.tar" if what == "archive" else "b/manifest.json")
    (corpus / "start").write_bytes(start.read_bytes())
    read = archive_of if what == "archive" else manifest_of

    def one(data: bytes) -> None:
        try:
            read(data, folder)
        except EdgekdError:
            return

    assert archive.CHUNK  # imported for its instruments
    arguments = [
        sys.argv[0],
        str(corpus),
        f"-max_total_time={seconds}",
        "-max_len=40000",
        "-timeout=30",
    ]
    atheris.Setup([*arguments, f"-artifact_prefix={folder}/"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
