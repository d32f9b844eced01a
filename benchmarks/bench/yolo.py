"""YOLO11, as far as its time hangs on it: the layers of its published table, weights random.

Sizes after the configuration table of YOLO11 (ultralytics documentation, model comparison): 2.6, 9.4,
20.1, 25.3 and 56.9 million parameters and 6.5, 21.5, 68.0, 86.9 and 194.9 GFLOP at 640 pixels,
which the tests hold this to. Without the decoding of boxes, which the graph of the rows has.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

# Depth, width, most channels; whether every C3k2 is made of C3k.
SCALES: Final = {
    "n": (0.50, 0.25, 1024, False),
    "s": (0.50, 0.50, 1024, False),
    "m": (0.50, 1.00, 512, True),
    "l": (1.00, 1.00, 512, True),
    "x": (1.00, 1.50, 512, True),
}
CLASSES: Final = 80
BINS: Final = 16  # of the distribution over each side of a box


class Conv(nn.Module):
    """Convolution, batch normalisation, SiLU."""

    def __init__(
        self,
        taken: int,
        given: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(taken, given, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(given)
        self.act = nn.SiLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    def __init__(self, taken: int, given: int, *, inside: float) -> None:
        super().__init__()
        hidden = int(given * inside)
        self.first, self.second = Conv(taken, hidden, 3), Conv(hidden, given, 3)
        self.residual = taken == given

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.second(self.first(x))
        return x + made if self.residual else made


class C3k(nn.Module):
    def __init__(self, taken: int, given: int) -> None:
        super().__init__()
        hidden = given // 2
        self.first, self.second = Conv(taken, hidden), Conv(taken, hidden)
        self.last = Conv(2 * hidden, given)
        self.inner = nn.Sequential(*(Bottleneck(hidden, hidden, inside=1.0) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat((self.inner(self.first(x)), self.second(x)), 1))  # type: ignore[no-any-return]


class C3k2(nn.Module):
    def __init__(self, taken: int, given: int, count: int, *, deep: bool, share: float) -> None:
        super().__init__()
        self.hidden = int(given * share)
        self.first = Conv(taken, 2 * self.hidden)
        self.last = Conv((2 + count) * self.hidden, given)
        self.inner = nn.ModuleList(
            C3k(self.hidden, self.hidden)
            if deep
            else Bottleneck(self.hidden, self.hidden, inside=0.5)
            for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for module in self.inner:
            parts.append(module(parts[-1]))
        return self.last(torch.cat(parts, 1))  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // 64
        self.width = channels // self.heads
        self.key = self.width // 2
        self.qkv = Conv(channels, channels + 2 * self.key * self.heads, act=False)
        self.proj, self.position = (
            Conv(channels, channels, act=False),
            Conv(channels, channels, 3, groups=channels, act=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(x).view(batch, self.heads, 2 * self.key + self.width, height * width)
        q, k, v = qkv.split((self.key, self.key, self.width), 2)
        weight = ((q.transpose(-2, -1) @ k) * self.key**-0.5).softmax(-1)
        mixed = (v @ weight.transpose(-2, -1)).view(batch, channels, height, width)
        return self.proj(mixed + self.position(v.reshape(batch, channels, height, width)))  # type: ignore[no-any-return]


class C2PSA(nn.Module):
    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.hidden = channels // 2
        self.first, self.last = Conv(channels, channels), Conv(channels, channels)
        self.attention = nn.ModuleList(Attention(self.hidden) for _ in range(count))
        self.mlp = nn.ModuleList(
            nn.Sequential(
                Conv(self.hidden, 2 * self.hidden), Conv(2 * self.hidden, self.hidden, act=False)
            )
            for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, made = self.first(x).split((self.hidden, self.hidden), 1)
        for attention, mlp in zip(self.attention, self.mlp, strict=True):
            made = made + attention(made)
            made = made + mlp(made)
        return self.last(torch.cat((kept, made), 1))  # type: ignore[no-any-return]


class SPPF(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.last = Conv(channels, channels // 2), Conv(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(functional.max_pool2d(parts[-1], 5, 1, 2))
        return self.last(torch.cat(parts, 1))  # type: ignore[no-any-return]


class Head(nn.Module):
    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        box, score = max(16, levels[0] // 4, 4 * BINS), max(levels[0], min(CLASSES, 100))
        self.boxes = nn.ModuleList(
            nn.Sequential(Conv(c, box, 3), Conv(box, box, 3), nn.Conv2d(box, 4 * BINS, 1))
            for c in levels
        )
        self.scores = nn.ModuleList(
            nn.Sequential(
                Conv(c, c, 3, groups=c),
                Conv(c, score),
                Conv(score, score, 3, groups=score),
                Conv(score, score),
                nn.Conv2d(score, CLASSES, 1),
            )
            for c in levels
        )

    def forward(self, levels: list[Tensor]) -> Tensor:
        found = [
            torch.cat((box(x), score(x)), 1).flatten(2)
            for x, box, score in zip(levels, self.boxes, self.scores, strict=True)
        ]
        return torch.cat(found, 2)


class YOLO11(nn.Module):
    """Images (N, 3, H, W) to (N, 144, boxes)."""

    def __init__(self, scale: str) -> None:
        super().__init__()
        depth, width, most, deep = SCALES[scale]
        # Channels in steps of 8, counts of blocks at least 1.
        w = [math.ceil(min(c, most) * width / 8) * 8 for c in (64, 128, 256, 512, 1024)]
        n = max(round(2 * depth), 1)

        def block(taken: int, given: int, *, always: bool = False, share: float = 0.5) -> C3k2:
            return C3k2(taken, given, n, deep=deep or always, share=share)

        self.down = nn.ModuleList(
            (
                nn.Sequential(
                    Conv(3, w[0], 3, stride=2),
                    Conv(w[0], w[1], 3, stride=2),
                    block(w[1], w[2], share=0.25),
                    Conv(w[2], w[2], 3, stride=2),
                    block(w[2], w[3], share=0.25),
                ),
                nn.Sequential(Conv(w[3], w[3], 3, stride=2), block(w[3], w[3], always=True)),
                nn.Sequential(
                    Conv(w[3], w[4], 3, stride=2),
                    block(w[4], w[4], always=True),
                    SPPF(w[4]),
                    C2PSA(w[4], n),
                ),
            )
        )
        self.up = nn.ModuleList((block(w[4] + w[3], w[3]), block(w[3] + w[3], w[2])))
        self.shrink = nn.ModuleList((Conv(w[2], w[2], 3, stride=2), Conv(w[3], w[3], 3, stride=2)))
        self.join = nn.ModuleList((block(w[2] + w[3], w[3]), block(w[3] + w[4], w[4], always=True)))
        self.head = Head((w[2], w[3], w[4]))

    def forward(self, images: Tensor) -> Tensor:
        small = self.down[0](images)
        middle = self.down[1](small)
        large = self.down[2](middle)
        middle = self.up[0](torch.cat((functional.interpolate(large, scale_factor=2.0), middle), 1))
        first = self.up[1](torch.cat((functional.interpolate(middle, scale_factor=2.0), small), 1))
        second = self.join[0](torch.cat((self.shrink[0](first), middle), 1))
        third = self.join[1](torch.cat((self.shrink[1](second), large), 1))
        return self.head([first, second, third])  # type: ignore[no-any-return]
