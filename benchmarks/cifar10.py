"""Distil the public CIFAR-10 ResNet-20 without data, evaluate on the real test images, keep a row.

    python benchmarks/cifar10.py --shared ../shared --minutes 15 --device cpu
    python benchmarks/cifar10.py --shared ../shared --minutes 5 --device cuda

Runs `edgekd compress` as a user would, then appends one row to benchmarks/results/cifar10.csv with
what it reached and under which conditions. The data and the teacher are not part of edgekd:
--shared names a folder with teachers/resnet20-12fca82f.th (akamaster/pytorch_resnet_cifar10) and
data/load.py whose cifar10("test") gives uint8 images (N, 32, 32, 3) and labels.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.distill.pairs import CIFAR10
from benchmarks.machine import processor
from benchmarks.rows import append_row

RESULTS = Path(__file__).parent / "results" / "cifar10.csv"
NORMALISATION = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--minutes", default="15")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "cifar10-test.npz"
        images, labels = CIFAR10.load(options.shared, "test")
        np.savez(data, images=images, labels=labels)
        teacher = options.shared / "teachers" / "resnet20-12fca82f.th"
        command = [
            *("edgekd", "compress", str(teacher), "--input", "3x32x32", *NORMALISATION),
            *("--student", options.student, "--minutes", options.minutes, "--seed", options.seed),
            *("--target", "jetson-orin-nano-8gb", "--eval", str(data), "--device", options.device),
            *("--out", str(Path(folder) / "bundle"), "--json"),
        ]
        done = subprocess.run([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True)
    if done.returncode not in {0, 4}:
        sys.exit(done.returncode)
    found = row(json.loads(done.stdout), options, done.returncode)
    append_row(options.results, found)
    print(json.dumps(found, indent=1))


def row(outcome: dict, options: argparse.Namespace, code: int) -> dict[str, object]:
    import torch

    report, student = outcome["report"], outcome["manifest"]["student"]
    results = {entry["model"]: entry for entry in report["evaluation"]["results"]}
    on_gpu = report["device"].startswith("cuda")
    return {
        "teacher": outcome["manifest"]["teacher"]["architecture"]["name"],
        "student": student["architecture"]["name"],
        "parameters": student["parameters"],
        "recipe": student["recipe"],
        "minutes": options.minutes,
        "seed": options.seed,
        "steps": student["steps"],
        "images": report["history"][-1]["images"],
        "precision": report["precision"],
        "device": torch.cuda.get_device_name() if on_gpu else processor(),
        "threads": report["threads"],
        "torch": torch.__version__,
        "edgekd": outcome["manifest"]["made_with"].split()[-1],
        "teacher_accuracy": f"{results['teacher']['accuracy']:.4f}",
        "student_accuracy": f"{results['student']['accuracy']:.4f}",
        "int8_accuracy": f"{results['int8']['accuracy']:.4f}",
        "int8_top1_agreement": f"{report['evaluation']['int8_top1_agreement']:.4f}",
        "agreement_on_test_images": f"{results['student']['agreement_with_teacher']:.4f}",
        "agreement_held_out_synthetic": f"{student['agreement']:.4f}",
        "exit_code": code,
        "note": options.note,
    }


if __name__ == "__main__":
    main()
