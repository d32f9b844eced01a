"""Networks that make images of latents.

N images, C channels, H x W pixels, K classes, Z latents.
"""

import itertools
import math
from typing import Final, Literal

import torch
from torch import Tensor, nn

from edgekd.distill.synthesis.synthetic_batch import channel_statistics
from edgekd.records import InputSpec

# Pixels of a side, about, before the first doubling
START: Final = 8
# Pixels of a side, above which a generator is half as wide
LARGE: Final = 64
# Times the teacher's pass: what a generator may cost where its width is free (docs/log.md)
AFFORDABLE: Final = 3.0
LEAST_WIDTH: Final = 8

Head = Literal["sigmoid", "batch_norm"]


def width_for(spec: InputSpec) -> int:
    """Channels at full size: at 32 pixels a width of 64 costs more than the teacher it serves."""
    return 32 if max(spec.height, spec.width) <= LARGE else 16


def affordable_width(spec: InputSpec, *, macs: int) -> int:
    """The widest of 32, 16 and 8 channels at full size that cost no more than a few of the teacher's passes.

    Args:
        spec: of the images.
        macs: multiply-accumulates of the teacher's pass.
    """
    width = width_for(spec)
    while width > LEAST_WIDTH and macs_of(spec, width=width) > AFFORDABLE * macs:
        width //= 2
    return width


def macs_of(spec: InputSpec, *, width: int) -> int:
    """Multiply-accumulates of an image in the convolutions of a generator."""
    pixels = spec.height * spec.width
    doublings = _doublings(spec)
    # Each before the last sees a quarter of the pixels of the one behind
    inner = sum(4 * width * width * (pixels >> 2 * back) for back in range(1, doublings))
    return 9 * (inner + 2 * width * width * pixels + width * spec.channels * pixels)


def _doublings(spec: InputSpec) -> int:
    return max(2, math.ceil(math.log2(max(spec.height, spec.width) / START)))


class Generator(nn.Module):
    """Latents (N, Z) to images (N, C, H, W) on the scale of 0..1: a linear layer and doublings (DCGAN-like).

    The head is a sigmoid; or tanh and a batch-norm without parameters, whose images have mean 0 and
    deviation 1 in the teacher's normalised space, so that they can leave 0..1 (DAFL, Chen et al. 2019).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: InputSpec, *, latents: int, width: int, head: Head) -> None:
        super().__init__()
        doublings = _doublings(spec)
        scale = 2**doublings
        self.size = (spec.height, spec.width)
        self.start = (math.ceil(spec.height / scale), math.ceil(spec.width / scale))
        self.first = nn.Linear(latents, 2 * width * self.start[0] * self.start[1])
        widths = [2 * width] * doublings + [width]
        parts: list[nn.Module] = [nn.BatchNorm2d(2 * width)]
        for before, after in itertools.pairwise(widths):
            parts += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.2),
            ]
        self.body = nn.Sequential(*parts, nn.Conv2d(width, spec.channels, 3, padding=1))
        self.normal = nn.BatchNorm2d(spec.channels, affine=False) if head == "batch_norm" else None
        for name, values in zip(("mean", "std"), channel_statistics(spec), strict=True):
            self.register_buffer(name, values, persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.first(latents).unflatten(1, (-1, *self.start))  # (N, 2W, H', W')
        x = self.body(x).float()[..., : self.size[0], : self.size[1]]
        if self.normal is None:
            return torch.sigmoid(x)
        normal: Tensor = self.normal(torch.tanh(x))
        return normal * self.std + self.mean


class Embeddings(nn.Module):
    """Class numbers (N,) to vectors (N, E): one-hot, or rows of a table that the user gives (K, E)."""

    table: Tensor

    def __init__(self, classes: int, table: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("table", torch.eye(classes) if table is None else table)

    def forward(self, classes: Tensor) -> Tensor:
        return self.table[classes]


class NoisyLayers(nn.Module):
    """Class embeddings (N, E) to latents (N, Z), by linear layers that are drawn anew for each batch.

    Tran et al., CVPR 2024 ("NAYER"): the label carries what an image shows, the layer what makes two
    images of a class differ; so the g-th image of every class of a batch shares the g-th layer.
    """

    def __init__(self, embedding: int, latents: int, layers: int) -> None:
        super().__init__()
        self.normal = nn.BatchNorm1d(embedding)
        self.weight = nn.Parameter(torch.zeros(layers, latents, embedding))
        self.bias = nn.Parameter(torch.zeros(layers, latents))

    def draw(self, *, generator: torch.Generator) -> None:
        """New weights from N(0, 1)."""
        with torch.no_grad():
            for part in (self.weight, self.bias):
                part.normal_(generator=generator)

    def forward(self, embeddings: Tensor, layers: Tensor) -> Tensor:  # (N, E), (N,) -> (N, Z)
        x = self.normal(embeddings).unsqueeze(2)
        return torch.bmm(self.weight[layers], x).squeeze(2) + self.bias[layers]


def occurrence(classes: Tensor) -> Tensor:  # (N,) -> (N,)
    """How many of the same class come before each: 0 for the first of every class."""
    same = classes.unsqueeze(1) == classes.unsqueeze(0)  # (N, N)
    return same.tril(-1).sum(1)


class Encoder(nn.Module):
    """Images (N, C, H, W), normalised, to means and log variances of latents, (N, Z) each."""

    def __init__(self, spec: InputSpec, *, latents: int, width: int) -> None:
        super().__init__()
        rows, columns = (math.ceil(math.ceil(side / 2) / 2) for side in (spec.height, spec.width))
        self.body = nn.Sequential(
            nn.Conv2d(spec.channels, width, 3, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        flat = 2 * width * rows * columns
        self.mean = nn.Linear(flat, latents)
        self.log_variance = nn.Linear(flat, latents)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(images)
        return self.mean(x).float(), self.log_variance(x).float().clamp(-20, 20)


def draw_weights(network: nn.Module, *, generator: torch.Generator) -> None:
    """Normal weights of standard deviation 0.02 for convolutions, as DCGAN has them."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            deviation = 0.02 if isinstance(part, nn.Conv2d) else part.in_features**-0.5
            nn.init.normal_(part.weight, std=deviation, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
