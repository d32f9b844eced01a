"""Bundles: verified, and held against a budget."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.api.paths import paths_of
from edgekd.options import BudgetOptions, require_record

if TYPE_CHECKING:
    from edgekd.bundle.verification import VerifiedBundle
    from edgekd.gate.gates import Judgement


def gate(
    reports: str | Path | Sequence[str | Path],
    *,
    budget: BudgetOptions | None = None,
    target: str | None = None,
    keys: Sequence[str | Path] = (),
    junit: str | Path | None = None,
    summary: str | Path | None = None,
) -> "Judgement":
    """Hold reports against a budget.

    Args:
        reports: Bundles or their report.json, and JSON files of measurements or estimates.
        budget: Project file, limits, and limits that pass on an estimate.
        target: Board whose figures count; overrides the file's.
        keys: Public keys (PEM) of which one must have signed the bundle.
        junit: JUnit XML file to write, one test case per gate.
        summary: Markdown file to append a table to.

    Returns:
        The verdicts. A failed gate does not raise, see `Judgement.passed`.

    Raises:
        UsageError: There is nothing to judge, or the budget contradicts itself.
        InputFileError: A report, budget or key cannot be read.
        IntegrityError: A digest or the signature does not hold.
        OutputError: A file cannot be written.
    """
    from edgekd.workflows import gate as workflow

    asked = require_record(budget, BudgetOptions)
    verdicts = None if junit is None else Path(junit)
    found = workflow.judge_reports(
        paths_of(reports),
        file=asked.file,
        limits=asked.limits,
        target=target,
        allowed=asked.allow_estimates,
        keys=[Path(each) for each in keys],
        junit=verdicts,
    )
    workflow.write_judgement(
        found, junit=verdicts, summary=None if summary is None else Path(summary)
    )
    return found


def verify_bundle(
    bundle: str | Path, *, keys: Sequence[str | Path] = (), signature: str | Path | None = None
) -> "VerifiedBundle":
    """Verify a bundle: its signature, then its checksums, then its manifest.

    Args:
        bundle: Folder, .tar or .tar.zst.
        keys: Public keys (PEM) of which one must have signed it; none leaves the signature unchecked.
        signature: Signature file, if not beside the archive or in the folder.

    Returns:
        Manifest and report of the bundle, and the key that signed it.

    Raises:
        UsageError: A signature is given without keys.
        InputFileError: It is not a bundle, or a key cannot be read.
        IntegrityError: A checksum or the signature does not hold.
    """
    from edgekd.bundle import signing, verification
    from edgekd.errors import UsageError

    if signature is not None and not keys:
        raise UsageError("--signature says where it is, --key whose it must be: add --key.")
    return verification.verify_bundle(
        Path(bundle),
        trusted=tuple(signing.public_key(Path(key)) for key in keys),
        signature=None if signature is None else Path(signature),
    )
