"""Train the demo's teacher and cut its evaluation set, from the four official MNIST files.

    python examples/mnist/train_teacher.py --data FOLDER_WITH_THE_IDX_FILES

writes `teacher.pt`, and `test-1000.npz` (the first 1,000 test images). About 6 minutes on 2 cores.
The demo ships both, so nobody has to run this; it is here so that everybody can. `--arch lenet5
--rate 0.05 --out FOLDER` trains a teacher without batch-norm.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgekd.distill.models import architectures, networks
from edgekd.records import Architecture

HERE = Path(__file__).parent
MEAN, STD = 0.1307, 0.3081
BATCH, EPOCHS = 128, 6


def read_idx(folder: Path, split: str) -> tuple[Tensor, Tensor]:  # (N, 1, 28, 28) uint8, (N,)
    images = gzip.decompress((folder / f"{split}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / f"{split}-labels-idx1-ubyte.gz").read_bytes())[8:]
    pixels = np.frombuffer(images, np.uint8).reshape(-1, 1, 28, 28).copy()
    return torch.from_numpy(pixels), torch.from_numpy(
        np.frombuffer(labels, np.uint8).astype(np.int64)
    )


def normalise(images: Tensor) -> Tensor:
    return (images.float() / 255 - MEAN) / STD


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each batch moved by up to two pixels: enough for a teacher above 99 %."""
    rows, columns = torch.randint(-2, 3, (2,), generator=generator).tolist()
    return images.roll((rows, columns), dims=(2, 3))  # digits keep their distance from the border


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--arch", default="resnet14-w12")
    parser.add_argument("--rate", type=float, default=0.2, help="peak learning rate")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    images, labels = read_idx(options.data, "train")
    test_images, test_labels = read_idx(options.data, "t10k")
    model = architectures.build(
        Architecture(
            source="edgekd", name=options.arch, channels=1, classes=10, height=28, width=28
        )
    )
    networks.initialise(model, generator=generator)
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=options.rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=options.rate, total_steps=steps
    )
    for epoch in range(EPOCHS):
        model.train()
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH)[
            : len(images) // BATCH
        ]:
            loss = functional.cross_entropy(
                model(shift(normalise(images[chosen]), generator)), labels[chosen]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            right = sum(
                int((model(normalise(part)).argmax(1) == truth).sum())
                for part, truth in zip(
                    test_images.split(1000), test_labels.split(1000), strict=True
                )
            )
        print(
            f"epoch {epoch + 1}: {right / len(test_labels):.2%} of {len(test_labels):,} test images"
        )
    torch.save({"state_dict": model.state_dict()}, options.out / "teacher.pt")
    np.savez_compressed(
        options.out / "test-1000.npz",
        images=test_images[:1000].permute(0, 2, 3, 1).numpy(),  # (N, 28, 28, 1)
        labels=test_labels[:1000].numpy().astype(np.uint8),
    )


if __name__ == "__main__":
    main()
