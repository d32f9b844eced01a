"""Our own small-image networks: teachers that are recognised, students that are delivered.

N images, C channels, H x W pixels, K classes. Every network maps (N, C, H, W) to logits (N, K),
takes any C, and any H and W that are not too small for it, and says its penultimate features where that helps nobody but us:
no hooks, no state beside the parameters. Parameter names follow the checkpoints that are in
circulation, so that those load (see `architectures.canonical`).
"""

from collections.abc import Sequence
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Shortcut = Literal["projection", "pad"]

VGG11_WIDTHS: Final = (
    64,
    "pool",
    128,
    "pool",
    256,
    256,
    "pool",
    512,
    512,
    "pool",
    512,
    512,
    "pool",
)
# Expansion, width, blocks, stride: MobileNetV2 (Sandler et al. 2018, table 2) with the strides of
# the first two stages at 1, since 32-pixel inputs have nothing to spare.
MOBILENETV2_STAGES: Final = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class LeNet5(nn.Module):
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling, as the data-free papers use it."""

    def __init__(
        self, *, channels: int, classes: int, height: int, width: int, scale: float
    ) -> None:
        super().__init__()
        first, second, third, fourth = (round(size * scale) for size in (6, 16, 120, 84))
        rows, columns = ((size // 2 - 4) // 2 for size in (height, width))
        self.conv1 = nn.Conv2d(channels, first, 5, padding=2)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.fc1 = nn.Linear(second * rows * columns, third)
        self.fc2 = nn.Linear(third, fourth)
        self.fc3 = nn.Linear(fourth, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(images)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.relu(self.fc1(torch.flatten(x, 1)))
        x = functional.relu(self.fc2(x))
        return self.fc3(x)  # type: ignore[no-any-return]


class PadShortcut(nn.Module):
    """Option A of He et al. 2016: every second pixel, new channels zero."""

    def __init__(self, *, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after)
        )


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride=stride, kind=shortcut)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu(y + self.shortcut(x))


def _shortcut(inputs: int, outputs: int, *, stride: int, kind: Shortcut) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if kind == "pad":
        return PadShortcut(inputs=inputs, outputs=outputs, stride=stride)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
    )


class ResNet(nn.Module):
    """Residual networks for small images (He et al. 2016, section 4.2): a 3x3 stem, no pooling.

    Three stages of n blocks give depth 6n + 2; four stages of (2, 2, 2, 2) or (3, 4, 6, 3) give
    ResNet-18 and ResNet-34 with the small-image stem. `pooled`: torchvision's pool stands behind the stem still.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        blocks: Sequence[int],
        base_width: int,
        shortcut: Shortcut,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        self.pooled = pooled
        self.conv1 = _conv3x3(channels, base_width)
        self.bn1 = nn.BatchNorm2d(base_width)
        width = base_width
        for stage, count in enumerate(blocks, start=1):
            outputs = base_width * 2 ** (stage - 1)
            layers = [
                BasicBlock(
                    width if block == 0 else outputs,
                    outputs,
                    stride=2 if block == 0 and stage > 1 else 1,
                    shortcut=shortcut,
                )
                for block in range(count)
            ]
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
            width = outputs
        self.stages = len(blocks)
        self.fc = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(images)))
        if self.pooled:
            x = functional.max_pool2d(x, 3, stride=2, padding=1)
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        x = functional.adaptive_avg_pool2d(x, 1)
        return self.fc(torch.flatten(x, 1))  # type: ignore[no-any-return]


class WideBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        self.shortcut = (
            None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        active = functional.relu(self.bn1(x))
        y = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        return y + (x if self.shortcut is None else self.shortcut(active))  # type: ignore[no-any-return]


class WideStage(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, count: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            *(
                WideBlock(
                    inputs if block == 0 else outputs, outputs, stride=stride if block == 0 else 1
                )
                for block in range(count)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


class WideResNet(nn.Module):
    """WRN-d-k (Zagoruyko and Komodakis 2016), d = 6n + 4, without dropout."""

    def __init__(self, *, channels: int, classes: int, depth: int, factor: int) -> None:
        super().__init__()
        widths = [16, 16 * factor, 32 * factor, 64 * factor]
        count = (depth - 4) // 6
        self.conv1 = _conv3x3(channels, widths[0])
        self.block1 = WideStage(widths[0], widths[1], count=count, stride=1)
        self.block2 = WideStage(widths[1], widths[2], count=count, stride=2)
        self.block3 = WideStage(widths[2], widths[3], count=count, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(images))))
        x = functional.adaptive_avg_pool2d(functional.relu(self.bn1(x)), 1)
        return self.fc(torch.flatten(x, 1))  # type: ignore[no-any-return]


class Vgg11(nn.Module):
    """VGG-11 (Simonyan and Zisserman 2015) with batch-norm and one linear layer, for small images."""

    def __init__(self, *, channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = channels
        for size in VGG11_WIDTHS:
            if isinstance(size, str):
                layers.append(nn.MaxPool2d(2))
            else:
                conv = nn.Conv2d(width, size, 3, padding=1)
                layers += [conv, nn.BatchNorm2d(size), nn.ReLU()]
                width = size
        # A 28-pixel input is down to one pixel after four halvings; the fifth would leave none.
        layers[-1] = nn.AdaptiveAvgPool2d(1)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(images), 1))  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        layers += [
            nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)
        self.keeps_shape = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + y if self.keeps_shape else y  # type: ignore[no-any-return]


class MobileNetV2(nn.Module):
    """MobileNetV2 for small images, widths rounded to multiples of 8."""

    def __init__(self, *, channels: int, classes: int, factor: float) -> None:
        super().__init__()
        width = _multiple_of_8(32 * factor)
        last = _multiple_of_8(1280 * max(1.0, factor))
        layers: list[nn.Module] = [_conv3x3(channels, width), nn.BatchNorm2d(width), nn.ReLU6()]
        for expansion, size, count, stride in MOBILENETV2_STAGES:
            outputs = _multiple_of_8(size * factor)
            for block in range(count):
                first_stride = stride if block == 0 else 1
                layers.append(
                    InvertedResidual(width, outputs, expansion=expansion, stride=first_stride)
                )
                width = outputs
        layers += [nn.Conv2d(width, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(last, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(self.features(images), 1)
        return self.classifier(torch.flatten(x, 1))  # type: ignore[no-any-return]


def _multiple_of_8(size: float) -> int:
    """The paper's rounding: to the nearest multiple of 8, never below 90 % of what was asked."""
    rounded = max(8, int(size + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * size else rounded


def find_head(module: nn.Module, *, classes: int) -> nn.Module | None:
    """The layer that makes the logits: the last linear one that gives `classes` numbers, or else the last convolution."""
    parts = list(module.modules())[::-1]
    linear = (p for p in parts if isinstance(p, nn.Linear) and p.out_features == classes)
    convolution = (p for p in parts if isinstance(p, nn.Conv2d) and p.out_channels == classes)
    return next(linear, None) or next(convolution, None)


def initialise(module: nn.Module, *, generator: torch.Generator) -> None:
    """Draw all parameters again from `generator`: He et al. 2015 for convolutions and linear layers.

    Building a module draws from torch's global generator; what is drawn here does not depend on it.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(
                part.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )
        elif isinstance(part, nn.Linear):
            nn.init.kaiming_uniform_(part.weight, nonlinearity="linear", generator=generator)
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
        if isinstance(part, nn.Conv2d | nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, *, decay: float) -> None:
    """Move an average of a network's weights towards what they are now; what is counted is copied."""
    theirs = network.state_dict()
    for name, tensor in average.state_dict().items():
        if tensor.is_floating_point():
            tensor.lerp_(theirs[name], 1 - decay)
        else:
            tensor.copy_(theirs[name])


class ResizedInput(nn.Module):
    """A network that sees its images (N, C, H, W) at another size: fewer pixels are the cheapest way to be faster."""

    def __init__(self, network: nn.Module, *, side: int) -> None:
        super().__init__()
        # No name that wrappers use: those are taken off when weights are read
        self.inner = network
        self.side = side

    def forward(self, images: Tensor) -> Tensor:  # (N, C, H, W) -> (N, K)
        size = (self.side, self.side)
        scaled = functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
        found: Tensor = self.inner(scaled)
        return found
