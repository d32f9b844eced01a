"""Recipes in their papers' own settings.

They have the sizes, rates and lengths of the paper or its released code, as far as they are known
(`Provenance` says what is not); `steps` are those of the student over the whole run.
"""

from dataclasses import replace
from typing import Final

from edgekd.distill.kd_losses import SoftTargets
from edgekd.distill.recipes.catalogue import (
    BINICI,
    FLOW,
    FLOW_LEARNING,
    GALLERY,
    IN_TRAIN_MODE,
    RECIPES,
)
from edgekd.distill.recipes.config import (
    InvertedSource,
    MetaSource,
    NoisyLayerSource,
    PixelSource,
    Recipe,
    Repeats,
    ReplayMemory,
    RestartedSource,
)
from edgekd.records import record


@record
class Faithful:
    """A recipe in its paper's settings."""

    recipe: Recipe
    # Of the student, in the whole run.
    steps: Repeats


_FLOW: Final = replace(FLOW, batch=1024, latents=1000, width=64, head="batch_norm", rate=0.02)
_LEARNING: Final = replace(FLOW_LEARNING, batch=1152, optimizer="sgd", rate=0.1, weight_decay=5e-4)
_REPLAY: Final = ReplayMemory(
    batches=8, entry=128, period=0.02, share=1 / 9, latents=1000, width=64, steps=4
)
# Where a generator flows, batches of 256 and a wide generator: as the later re-implementations have it.
_WIDE: Final = replace(FLOW, batch=256, latents=256, width=64, rate=1e-3)


def _cmi_family(
    name: str,
    steps: int,
    source: InvertedSource,
    *,
    warm_up: float = 0.1,
    rate: float = 0.1,
    made: int = 256,
    learned: int = 256,
) -> Faithful:
    """Images made and learned at once, in an epoch of 400 steps."""
    base = RECIPES[name]
    wide = replace(source, batch=made, expansion=0.0)
    if not isinstance(wide, PixelSource):
        wide = replace(wide, latents=256, width=64)
    learning = replace(
        base.learning,
        batch=learned,
        steps=400,
        rate=rate,
        weight_decay=1e-4,
        mix=0.0,
        real=0.5 if base.learning.real else 0.0,
    )
    recipe = replace(
        base,
        source=wide,
        adversary=replace(base.adversary, warm_up=warm_up),
        memory=replace(base.memory, batches=400, entry=made),
        learning=learning,
    )
    return Faithful(recipe=recipe, steps=steps)


FAITHFUL: Final[dict[str, Faithful]] = {
    "memory-bank": Faithful(
        recipe=replace(
            RECIPES["memory-bank"],
            source=_FLOW,
            losses=BINICI,
            adversary=IN_TRAIN_MODE,
            memory=RECIPES["memory-bank"].memory,
            learning=_LEARNING,
        ),
        steps=144_000,
    ),
    "pseudo-replay": Faithful(
        recipe=replace(
            RECIPES["pseudo-replay"],
            source=_FLOW,
            losses=BINICI,
            adversary=IN_TRAIN_MODE,
            memory=_REPLAY,
            learning=_LEARNING,
        ),
        steps=144_000,
    ),
    "dafl": Faithful(
        recipe=replace(
            RECIPES["dafl"],
            source=_FLOW,
            adversary=IN_TRAIN_MODE,
            memory=GALLERY,
            learning=replace(_LEARNING, batch=1024, steps=1, loss=SoftTargets(temperature=1.0)),
        ),
        steps=2000 * 120,
    ),
    "dfad": Faithful(
        recipe=replace(
            RECIPES["dfad"],
            source=_WIDE,
            adversary=IN_TRAIN_MODE,
            memory=GALLERY,
            learning=replace(_LEARNING, batch=256, steps=5),
        ),
        steps=500 * 50 * 5,
    ),
    "zskt": Faithful(
        recipe=replace(
            RECIPES["zskt"],
            source=_WIDE,
            adversary=IN_TRAIN_MODE,
            memory=GALLERY,
            learning=replace(_LEARNING, batch=256, steps=5, loss=SoftTargets(temperature=20.0)),
        ),
        steps=200 * 400 * 5,
    ),
    "deep-inversion": _cmi_family(
        "deep-inversion", 200 * 400, PixelSource(batch=128, steps=2000, rate=0.1, jitter=2)
    ),
    "cmi": _cmi_family("cmi", 200 * 400, RestartedSource(batch=128, steps=500, rate=1e-3)),
    "condensed-expansion": _cmi_family(
        "condensed-expansion", 220 * 400, MetaSource(batch=128, steps=10, rate=2e-3), warm_up=1 / 11
    ),
    "condensed-cmi": _cmi_family(
        "condensed-cmi", 200 * 400, RestartedSource(batch=128, steps=500, rate=1e-3)
    ),
    "fast": _cmi_family(
        "fast",
        220 * 400,
        MetaSource(batch=128, steps=5, rate=3e-3, latent_rate=0.01),
        warm_up=1 / 11,
        rate=0.2,
    ),
    "nayer": _cmi_family(
        "nayer",
        320 * 400,
        NoisyLayerSource(batch=128, steps=30, rate=4e-3, restart_every=1 / 30),
        warm_up=1 / 16,
        rate=0.2,
        made=400,
        learned=512,
    ),
    "noise": Faithful(
        recipe=replace(RECIPES["noise"], learning=replace(RECIPES["noise"].learning, batch=256)),
        steps=200 * 196,
    ),
}
