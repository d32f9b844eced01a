"""The source of images that a recipe names."""

from collections.abc import Callable
from typing import Any, Final

from edgekd.distill.recipes.config import InvertedSource, NoiseSource, UnconditionalSource
from edgekd.distill.synthesis.adversarial import FlowingSource, Noise, UnconditionalGenerator
from edgekd.distill.synthesis.generator_sources import (
    MetaGenerator,
    NoisyLayerGenerator,
    RestartedGenerator,
)
from edgekd.distill.synthesis.inversion import FittedSource, SourceContext
from edgekd.distill.synthesis.pixel_sources import Pixels

# By the kind of the recipe's record, which is the first argument of each.
FITTED: Final[dict[str, Callable[[Any, SourceContext], FittedSource]]] = {
    "meta": MetaGenerator,
    "restarted": RestartedGenerator,
    "noisy_layer": NoisyLayerGenerator,
    "pixels": Pixels,
}


def make_fitted_source(source: InvertedSource, context: SourceContext) -> FittedSource:
    """One that fits something to each batch of images."""
    return FITTED[source.kind](source, context)


def make_flowing_source(
    source: UnconditionalSource | NoiseSource, context: SourceContext
) -> FlowingSource:
    """One that makes fresh images for every step of the student."""
    if isinstance(source, NoiseSource):
        return Noise(context.spec, device=context.device)
    return UnconditionalGenerator(source, context)
