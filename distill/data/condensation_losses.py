"""The network that images are condensed through, and how far made images are from real ones in it.

N images, C channels, H x W pixels, F features, K classes.
"""

import math
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

_NETWORK_RATE: Final = 0.01


def convnet(
    shape: tuple[int, int, int],
    *,
    classes: int,
    width: int,
    generator: torch.Generator,
    device: torch.device,
) -> list[Tensor]:
    """Weights of the network of the papers: blocks of convolution, instance norm, ReLU, mean of 2 x 2.

    A list of tensors and functions of it, since gradients are matched through its gradients. Three
    blocks, and one more for every doubling of the images above 32 pixels.

    Args:
        shape: of an image, (C, H, W).
        classes: K.
        width: channels of each block.
        generator: of the weights, as torch draws them for new layers (He et al., 2015).
        device: where they are to be.

    Returns:
        Of each block the weight (width, in, 3, 3), bias, scale and shift (width,); then weight (K, D)
        and bias (K,). All require gradients.
    """
    channels, height, width_px = shape
    # An image of 8 pixels has three halvings in it.
    blocks = max(3, round(math.log2(min(height, width_px))) - 2)
    made: list[Tensor] = []

    def draw(*size: int) -> Tensor:
        inner = math.prod(size[1:])
        bound = 1 / math.sqrt(inner)
        return (2 * torch.rand(size, generator=generator, device=generator.device) - 1) * bound

    for block in range(blocks):
        inner = channels if block == 0 else width
        bias = draw(width, inner * 9)[:, 0]
        made += [draw(width, inner, 3, 3), bias, torch.ones(width), torch.zeros(width)]
    features = width * (height >> blocks) * (width_px >> blocks)
    made += [draw(classes, features), draw(classes, features)[:, 0]]
    return [weight.to(device).contiguous().requires_grad_() for weight in made]


def embed(weights: list[Tensor], images: Tensor) -> Tensor:
    """Features before the last layer, flat: (N, C, H, W) -> (N, D)."""
    for block in range(0, len(weights) - 2, 4):
        kernel, bias, scale, shift = weights[block : block + 4]
        images = functional.conv2d(images, kernel, bias, padding=1)
        # Groups of one channel: instance norm.
        images = functional.group_norm(images, len(scale), scale, shift).relu()
        images = functional.avg_pool2d(images, 2)
    return images.flatten(1)


def logits_of(weights: list[Tensor], images: Tensor) -> Tensor:  # (N, C, H, W) -> (N, K)
    return functional.linear(embed(weights, images), weights[-2], weights[-1])


def train_network(
    weights: list[Tensor], batches: Iterator[tuple[Tensor, Tensor]], momentum: float
) -> Iterator[float]:
    """A step on each batch of images and labels; its loss."""
    optimiser = torch.optim.SGD(weights, lr=_NETWORK_RATE, momentum=momentum)
    for images, labels in batches:
        loss = functional.cross_entropy(logits_of(weights, images), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        yield float(loss.detach())


def distribution_distance(weights: list[Tensor], real: Tensor, made: Tensor, _: int) -> Tensor:
    """Squared distance of the mean features of one class, (N, C, H, W) and (M, C, H, W) -> ()."""
    with torch.no_grad():
        goal = embed(weights, real).mean(0)  # (D,)
    return (embed(weights, made).mean(0) - goal).square().sum()


def gradient_distance(weights: list[Tensor], real: Tensor, made: Tensor, number: int) -> Tensor:
    """1 minus the cosine of the gradients of two batches of class `number`, summed over layers.

    Row by row of each weight, a row being what leads to one output; biases and the norms' scales
    are left out (Zhao et al., ICLR 2021, section 3.3).
    """
    goal = _gradients(weights, real, number, create_graph=False)
    found = _gradients(weights, made, number, create_graph=True)
    apart = [
        1 - functional.cosine_similarity(one.flatten(1), other.flatten(1), dim=1, eps=1e-6)
        for one, other in zip(found, goal, strict=True)
    ]
    return torch.cat(apart).sum()


def _gradients(
    weights: list[Tensor], images: Tensor, number: int, *, create_graph: bool
) -> tuple[Tensor, ...]:
    labels = torch.full((len(images),), number, device=images.device)
    loss = functional.cross_entropy(logits_of(weights, images), labels)
    matrices = [weight for weight in weights if weight.dim() > 1]
    return torch.autograd.grad(loss, matrices, create_graph=create_graph)
