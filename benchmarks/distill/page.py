"""docs/results.md from the committed CSVs: `python -m benchmarks.distill --page`."""

from pathlib import Path
from statistics import fmean, stdev

from benchmarks.distill.tables import TABLES
from benchmarks.rows import read_rows

PAGE = Path(__file__).parents[2] / "docs" / "results.md"

HEAD = """# What the recipes reach

Made by `python -m benchmarks.distill --page` from the files `benchmarks/results/distill-*.csv`; do not edit. A table
is run again, row by row, by `python -m benchmarks.distill --table NAME --shared FOLDER`, where FOLDER holds the real
data and third-party teachers that are not part of edgekd.

Accuracy is that of the delivered student, in float32, on all real test images, which no run has seen. It is the *last*
student: nothing was selected. "sd" is the standard deviation over seeds where there are two or more. Steady: standard
deviation of the accuracy on 2,000 test images over the last fifth of the run, of the student as it learns and of the
delivered average; and the final accuracy less the best one. Tracks: rank correlation over the run of that accuracy with
the agreement on held-out synthetic images, which is all that a user without data can see. Images: share of the time
that went into making them. Conditions are in the CSVs; `not run` is not a zero.
"""

# Table of ours, work, method, published accuracy in %, what differs from ours.
PUBLISHED = {
    "mnist": (
        ("LeNet-5 (98.9) to half, DFAD", "98.3", "GPU minutes, batch 512"),
        ("the same, DAFL", "98.1", "GPU"),
        ("the same, random noise", "74.7", ""),
        ("the same, knowledge distillation on the real images", "98.8", "with the data"),
    ),
    "condensed": (
        (
            "CIFAR-100, ResNet-34 to MobileNetV2: Fast, with naive mixing, with alignment",
            "54.6, 56.6, 63.3",
            "other data, networks and lengths; the order of the three is what can be compared",
        ),
        ("the same on CMI: without, with alignment", "61.9, 70.2", "likewise"),
    ),
    "gpu-resnet34": (
        ("DAFL", "92.2", "best over a run of hours, as all of these"),
        ("DFAD", "93.3", ""),
        ("memory bank (WACV 2022)", "92.4", ""),
        ("pseudo replay (AAAI 2022)", "94.1", ""),
        ("CMI, 500 steps a batch", "94.84", ""),
        ("Fast, 5 and 10 inner steps", "93.63, 94.05", ""),
        ("NAYER, SpaceshipNet", "95.2 to 95.4", "300 epochs and more"),
        ("noise", "85.98", "another teacher (93.29)"),
    ),
    "gpu-wrn": (
        ("CMI, 500 steps a batch", "92.52", "WRN-40-2 (94.87) to WRN-16-2"),
        ("Fast, 10 inner steps", "92.45", ""),
        ("DAFL", "81.55", ""),
    ),
}


def page(results: Path) -> str:
    """The whole page, in Markdown."""
    parts = [HEAD]
    for name, table in TABLES.items():
        parts.append(f"## {table.about}\n")
        found = read_rows(results / f"distill-{name}.csv")
        lines = [
            _line(row.name, [each for each in found if each["name"] == row.name])
            for row in table.rows
        ]
        parts.append("\n".join([*_header(), *lines]) + "\n")
        if found:
            parts.append(_conditions(found) + "\n")
        if name in PUBLISHED:
            parts.append("Published, as far as it is known (reference figures, not ours):\n")
            published = [
                f"| {work} | {figure} | {differs} |" for work, figure, differs in PUBLISHED[name]
            ]
            parts.append(
                "\n".join(
                    ["| work | accuracy % | what differs |", "| --- | --- | --- |", *published]
                )
                + "\n"
            )
    return "\n".join(parts)


def _header() -> list[str]:
    return [
        "| row | seeds | teacher % | student % | sd | budget | steps | images made | memory | steady raw, delivered | "
        "final - best | tracks | images |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]


def _line(name: str, rows: list[dict[str, str]]) -> str:
    if not rows:
        return f"| {name} | 0 | | not run | | | | | | | | | |"
    reached = [100 * float(row["accuracy"]) for row in rows]
    first = rows[0]
    budget = f"{first['minutes']} min" if first["minutes"] else f"{int(first['steps']):,} steps"
    behind = fmean(100 * (float(r["delivered_final"]) - float(r["delivered_best"])) for r in rows)
    cells = (
        name,
        str(len(rows)),
        f"{100 * float(first['teacher_accuracy']):.2f}",
        f"{fmean(reached):.2f}",
        f"{stdev(reached):.2f}" if len(reached) > 1 else "",
        budget,
        f"{fmean(int(row['steps']) for row in rows):,.0f}",
        f"{fmean(int(row['images']) for row in rows):,.0f}",
        _bytes(int(first["memory_bytes"])),
        ", ".join(
            f"{_mean(rows, f'{kind}_last_fifth_sd', 100):.2f}" for kind in ("raw", "delivered")
        ),
        f"{behind:.2f}",
        f"{_mean(rows, 'agreement_tracks', 1):.2f}",
        f"{fmean(float(r['seconds_images']) / float(r['seconds']) for r in rows):.0%}",
    )
    return f"| {' | '.join(cells)} |"


def _mean(rows: list[dict[str, str]], key: str, scale: float) -> float:
    return fmean(scale * float(row[key]) for row in rows)


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count else "none"


def _conditions(rows: list[dict[str, str]]) -> str:
    places = sorted(
        {
            f"{r['device']}, {r['threads']} thread{'s' * (r['threads'] != '1')}, {r['precision']}, torch {r['torch']}"
            for r in rows
        }
    )
    noted = sorted({r["note"] for r in rows if r.get("note")})
    return f"On {'; '.join(places)}.{''.join(f' {note}.' for note in noted)}"
