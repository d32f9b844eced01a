"""All recipes: what each is after, its budgeted form, and the paper's own settings.

The budgeted form is for a CPU or minutes of a GPU. The faithful form has the sizes, rates and
lengths of the paper or its released code, as far as they are known (`About` says what is not); its
`steps` are those of the student over the whole run.
"""

from dataclasses import replace
from typing import Final

from edgekd.distill.recipes.config import (
    AtLeastOne,
    Learning,
    LossWeights,
    Memory,
    Provenance,
    Recipe,
    Source,
)
from edgekd.records import record


@record
class Faithful:
    """A recipe in its paper's settings."""

    recipe: Recipe
    steps: AtLeastOne  # of the student, in the whole run


_POOL_SOURCE: Final = Source(
    kind="meta",
    batch=128,
    steps=10,
    weights=LossWeights(one_hot=2.0, batch_norm=1.0, adversarial=1.0),
    warm_up=0.1,
)
_POOL_LEARNING: Final = Learning(
    batch=128,
    steps=60,
    optimizer="sgd",
    rate=0.2,
    weight_decay=5e-4,
    loss="soft_targets",
    mix=0.5,
    shift=0.125,
)
_POOL_MEMORY: Final = Memory(kind="pool", batches=400, entry=128)

_POOL: Final = Recipe(
    name="pool",
    about=Provenance(
        paper="Fang et al., Up to 100x Faster Data-free Knowledge Distillation, AAAI 2022",
        confirmed="meta-learned generator, inversion losses, image pool, KL at temperature 20",
        reconstructed="written from the formulas",
        ours="budgeted schedules, mixtures, EMA student, uint8 pool on the device, many student steps for "
        "each batch of images",
    ),
    source=_POOL_SOURCE,
    memory=_POOL_MEMORY,
    learning=_POOL_LEARNING,
    first_batches=8,
)

_PLAIN: Final = Recipe(
    name="plain",
    about=Provenance(
        paper="Fang et al., Up to 100x Faster Data-free Knowledge Distillation, AAAI 2022",
        confirmed="as pool",
        reconstructed="as pool",
        ours="for teachers without trained batch-norm: images of mean 0 and deviation 1 by the generator's last "
        "layer, class balance, total variation, patch entropy of transformers (PSAQ-ViT, 2022); L1 of logits; a "
        "fresh generator twenty times in a run, against the student less and less; four fifths of what the student sees "
        "are structured noise. Weaker than pool is with batch-norm",
    ),
    source=replace(
        _POOL_SOURCE,
        steps=5,
        width=16,
        head="batch_norm",
        # One generator for a whole run drifts from what the teacher is sure of (docs/log.md).
        restart_every=0.05,
        fading=0.5,
        weights=LossWeights(
            one_hot=0.5,
            adversarial=1.0,
            disagreement=0.1,
            balance=1.0,
            total_variation=0.1,
            patches=0.1,
        ),
    ),
    # None is given up before 2,000 batches: later images are no better (docs/log.md).
    memory=replace(_POOL_MEMORY, batches=2000),
    learning=replace(
        _POOL_LEARNING,
        batch=256,
        steps=120,
        optimizer="adam",
        rate=3e-3,
        weight_decay=0.0,
        loss="logit_distance",
        structured=0.8,
    ),
    first_batches=8,
)

# What the released code of the AAAI 2022 paper gives its generator; the logarithm is natural and scaled
# by ln K here: -H/ln K has the gradient of sum p log10 p times ln 10 / ln K, 1 for ten classes.
_BINICI: Final = LossWeights(one_hot=1.0, balance=5.0, activation=0.1, jensen_shannon=1.0)
_FLOW: Final = Source(kind="unconditional", batch=128, latents=128, rate=2e-3, weights=_BINICI)
_FLOW_LEARNING: Final = Learning(
    batch=128,
    steps=10,
    optimizer="adam",
    rate=2e-3,
    weight_decay=0.0,
    loss="logit_distance",
)
_FAITHFUL_FLOW: Final = replace(
    _FLOW, batch=1024, latents=1000, width=64, head="batch_norm", rate=0.02, student_mode="train"
)
_FAITHFUL_LEARNING: Final = replace(
    _FLOW_LEARNING, batch=1152, optimizer="sgd", rate=0.1, weight_decay=5e-4
)
_GALLERY: Final = Memory(kind="none", batches=8, entry=128, period=0.02)

_MEMORY_BANK: Final = Recipe(
    name="memory-bank",
    about=Provenance(
        paper="Binici et al., Preventing Catastrophic Forgetting and Distribution Mismatch in Knowledge "
        "Distillation via Synthetic Data, WACV 2022",
        confirmed="a dynamic collection of past images; losses for the data's distribution beside those for "
        "information gain",
        reconstructed="10 batches of an eighth of the batch, one added every 5 of 400 epochs (from another team's "
        "re-implementation), generator losses (from the authors' next paper)",
        ours="budgeted: small batches, Adam and a narrow generator; a batch-norm term where the teacher has "
        "statistics, which nobody confirmed; where it has none, four fifths of what the student sees are structured "
        "noise",
    ),
    source=replace(_FLOW, weights=replace(_BINICI, batch_norm=1.0)),
    memory=Memory(kind="bank", batches=10, entry=128, period=0.0125, share=1 / 9),
    learning=_FLOW_LEARNING,
)
_PSEUDO_REPLAY: Final = Recipe(
    name="pseudo-replay",
    about=Provenance(
        paper="Binici et al., Robust and Resource-Efficient Data-Free Knowledge Distillation by Generative Pseudo "
        "Replay, AAAI 2022",
        confirmed="generator losses, VAE with teacher responses, tuned latents, L1 of logits, batch and step counts "
        "(released code)",
        reconstructed="Jensen-Shannon per sample, as in the paper; the release averages over classes too, which "
        "leaves it inert for many of them (`jensen_shannon_form`)",
        ours="budgeted: small batches, Adam and a narrow generator, 256 latents; a batch-norm term where the teacher "
        "has statistics; where it has none, four fifths of what the student sees are structured noise",
    ),
    source=replace(_FLOW, weights=replace(_BINICI, batch_norm=1.0)),
    memory=Memory(kind="replay", batches=8, entry=128, period=0.02, share=1 / 9, steps=1),
    learning=_FLOW_LEARNING,
)
_CONDENSED: Final = Recipe(
    name="condensed-expansion",
    about=Provenance(
        paper="Binici et al., Condensed Data Expansion Using Model Inversion for Knowledge Distillation (arXiv "
        "2408.13850), 2024",
        confirmed="an inversion loss plus feature alignment by a class-conditional discriminator on penultimate "
        "features; condensed and synthetic images augmented apart; learning from both",
        reconstructed="everything else of the discriminator: layers, hinge loss, rates, weight (two summaries; no "
        "code was found)",
        ours="on the pool; other bases by name (condensed-cmi, condensed-replay); three in four batches, fewer where there "
        "are fewer than a hundred images, begin as views of the condensed images, and their pixels are fitted",
    ),
    source=replace(
        _POOL_SOURCE, weights=replace(_POOL_SOURCE.weights, alignment=1.0), expansion=0.75
    ),
    memory=_POOL_MEMORY,
    learning=replace(_POOL_LEARNING, real=0.25),
    first_batches=8,
)
_CMI: Final = Recipe(
    name="cmi",
    about=Provenance(
        paper="Fang et al., Contrastive Model Inversion for Data-Free Knowledge Distillation, IJCAI 2021",
        confirmed="a fresh generator for each batch, batch-norm, one-hot, adversarial and contrastive losses, "
        "growing pool, KL at temperature 20",
        reconstructed="written from the formulas",
        ours="contrast of plain penultimate features without a projection head; 40 steps per batch where the paper "
        "has 500",
    ),
    source=replace(
        _POOL_SOURCE,
        kind="restarted",
        steps=40,
        rate=5e-3,
        weights=LossWeights(one_hot=1.0, batch_norm=1.0, adversarial=0.5, contrastive=0.8),
    ),
    memory=_POOL_MEMORY,
    learning=replace(_POOL_LEARNING, steps=200),
    first_batches=2,
    held_out_every=8,
)

_BOOK: Final = (
    _POOL,
    _PLAIN,
    _MEMORY_BANK,
    _PSEUDO_REPLAY,
    _CONDENSED,
    replace(
        _CONDENSED,
        name="condensed-cmi",
        source=replace(
            _CMI.source, weights=replace(_CMI.source.weights, alignment=1.0), expansion=0.75
        ),
        learning=replace(_CMI.learning, real=0.25),
        first_batches=2,
        held_out_every=8,
    ),
    replace(
        _CONDENSED,
        name="condensed-replay",
        about=replace(
            _CONDENSED.about,
            ours="on pseudo-replay; its images flow from a generator, so none begin as views of the condensed ones",
        ),
        source=replace(
            _PSEUDO_REPLAY.source,
            weights=replace(_PSEUDO_REPLAY.source.weights, alignment=1.0),
        ),
        memory=_PSEUDO_REPLAY.memory,
        learning=replace(_FLOW_LEARNING, real=0.25),
        first_batches=1,
    ),
    Recipe(
        name="dafl",
        about=Provenance(
            paper="Chen et al., Data-Free Learning of Student Networks, ICCV 2019",
            confirmed="one-hot, activation and class-entropy losses, a generator that flows, KL",
            reconstructed="written from the formulas",
            ours="budgeted: small batches, a narrow generator",
        ),
        source=replace(
            _FLOW,
            weights=LossWeights(one_hot=0.05, balance=5.0, activation=0.01),
            student_mode="train",
        ),
        memory=_GALLERY,
        learning=replace(_FLOW_LEARNING, steps=1, loss="soft_targets", temperature=1.0),
    ),
    Recipe(
        name="dfad",
        about=Provenance(
            paper="Fang et al., Data-Free Adversarial Distillation, 2019 (arXiv 1912.11006)",
            confirmed="the generator maximises, the student minimises the L1 distance of logits; 5 student steps a "
            "step of the generator",
            reconstructed="written from the formulas",
            ours="budgeted: a narrow generator",
        ),
        source=replace(
            _FLOW, rate=1e-3, weights=LossWeights(disagreement=1.0), student_mode="train"
        ),
        memory=_GALLERY,
        learning=replace(_FLOW_LEARNING, steps=5),
    ),
    Recipe(
        name="zskt",
        about=Provenance(
            paper="Micaelli and Storkey, Zero-shot Knowledge Transfer via Adversarial Belief Matching, NeurIPS 2019",
            confirmed="the generator maximises, the student minimises the KL divergence, and nothing else",
            reconstructed="rates and temperature from a re-implementation; the paper's attention term is not used",
            ours="budgeted: a narrow generator",
        ),
        source=replace(_FLOW, rate=1e-3, weights=LossWeights(divergence=1.0), student_mode="train"),
        memory=_GALLERY,
        learning=replace(_FLOW_LEARNING, steps=5, loss="soft_targets", temperature=20.0),
    ),
    Recipe(
        name="deep-inversion",
        about=Provenance(
            paper="Yin et al., Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion, CVPR 2020",
            confirmed="pixels are optimised for one-hot, batch-norm with a weight of its own for the first layer, "
            "total variation, L2 and jitter; Adaptive DeepInversion adds disagreement",
            reconstructed="written from the formulas",
            ours="100 steps per batch where the paper has 2,000; the pool and the student's schedule",
        ),
        source=Source(
            kind="pixels",
            batch=128,
            steps=100,
            rate=0.05,
            jitter=2,
            weights=LossWeights(
                one_hot=1.0,
                batch_norm=10.0,
                first_layer=10.0,
                jensen_shannon=10.0,
                total_variation=1e-2,
                l2=1e-3,
            ),
            warm_up=0.1,
        ),
        memory=_POOL_MEMORY,
        learning=replace(_POOL_LEARNING, steps=400),
        first_batches=2,
        held_out_every=8,
    ),
    _CMI,
    Recipe(
        name="fast",
        about=Provenance(
            paper="Fang et al., Up to 100x Faster Data-free Knowledge Distillation, AAAI 2022",
            confirmed="settings of the released scripts: 5 inner steps, batch-norm weight 10, adversary 1.33",
            reconstructed="written from the formulas",
            ours="budgeted: width of the generator",
        ),
        source=replace(
            _POOL_SOURCE,
            steps=5,
            latents=256,
            weights=LossWeights(one_hot=0.4, batch_norm=10.0, adversarial=1.33),
        ),
        memory=_POOL_MEMORY,
        learning=replace(_POOL_LEARNING, steps=10, weight_decay=1e-4, mix=0.0),
        first_batches=8,
    ),
    Recipe(
        name="nayer",
        about=Provenance(
            paper="Tran et al., NAYER: Noisy Layer Data Generation for Efficient and Effective Data-free Knowledge "
            "Distillation, CVPR 2024",
            confirmed="label embeddings through a layer drawn anew for each batch, generator started afresh every 10 "
            "of 300 epochs, loss weights",
            reconstructed="written from the formulas",
            ours="one-hot embeddings unless a file is given; 20 steps per batch where the paper has 30",
        ),
        source=replace(
            _POOL_SOURCE,
            kind="noisy_layer",
            steps=20,
            rate=4e-3,
            weights=LossWeights(one_hot=0.5, batch_norm=10.0, adversarial=1.33),
            restart_every=1 / 30,
        ),
        memory=_POOL_MEMORY,
        learning=replace(_POOL_LEARNING, steps=100),
        first_batches=4,
        held_out_every=8,
    ),
    Recipe(
        name="noise",
        about=Provenance(
            paper="Raikwar and Mishra, Discovering and Overcoming Limitations of Noise-engineered Data-free Knowledge "
            "Distillation, NeurIPS 2022",
            confirmed="x ~ N(0, I), a teacher that normalises by the batch, soft cross-entropy",
            reconstructed="written from the paper's idea",
            ours="nothing; the student's batch-norm statistics are those of noise, so expect little of it",
        ),
        source=Source(kind="noise", batch=128, weights=LossWeights()),
        memory=_GALLERY,
        learning=replace(_FLOW_LEARNING, rate=1e-3, loss="soft_targets", temperature=1.0, steps=20),
    ),
)

RECIPES: Final[dict[str, Recipe]] = {recipe.name: recipe for recipe in _BOOK}


def _faithful(
    name: str, steps: int, *, source: Source, memory: Memory, learning: Learning
) -> Faithful:
    recipe = replace(RECIPES[name], source=source, memory=memory, learning=learning)
    return Faithful(recipe=recipe, steps=steps)


def _cmi_family(
    name: str,
    length: int,
    changed: Source,
    *,
    rate: float = 0.1,
    made: int = 256,
    learned: int = 256,
) -> Faithful:
    """Images made and learned at once, in an epoch of 400 steps."""
    base = RECIPES[name]
    return _faithful(
        name,
        length,
        source=replace(changed, batch=made, latents=256, width=64, expansion=0.0),
        memory=replace(base.memory, batches=400, entry=made),
        learning=replace(
            base.learning,
            batch=learned,
            steps=400,
            rate=rate,
            weight_decay=1e-4,
            mix=0.0,
            real=0.5 if base.learning.real else 0.0,
        ),
    )


FAITHFUL: Final[dict[str, Faithful]] = {
    "memory-bank": _faithful(
        "memory-bank",
        144_000,
        source=replace(_FAITHFUL_FLOW, weights=_BINICI),
        memory=RECIPES["memory-bank"].memory,
        learning=_FAITHFUL_LEARNING,
    ),
    "pseudo-replay": _faithful(
        "pseudo-replay",
        144_000,
        source=replace(_FAITHFUL_FLOW, weights=_BINICI),
        memory=replace(RECIPES["pseudo-replay"].memory, latents=1000, width=64, steps=4),
        learning=_FAITHFUL_LEARNING,
    ),
    "dafl": _faithful(
        "dafl",
        2000 * 120,
        source=replace(
            _FAITHFUL_FLOW, weights=LossWeights(one_hot=0.05, balance=5.0, activation=0.01)
        ),
        memory=_GALLERY,
        learning=replace(
            _FAITHFUL_LEARNING, batch=1024, steps=1, loss="soft_targets", temperature=1.0
        ),
    ),
    "dfad": _faithful(
        "dfad",
        500 * 50 * 5,
        source=replace(RECIPES["dfad"].source, batch=256, latents=256, width=64),
        memory=_GALLERY,
        learning=replace(_FAITHFUL_LEARNING, batch=256, steps=5),
    ),
    "zskt": _faithful(
        "zskt",
        200 * 400 * 5,
        source=replace(RECIPES["zskt"].source, batch=256, latents=256, width=64),
        memory=_GALLERY,
        learning=replace(
            _FAITHFUL_LEARNING, batch=256, steps=5, loss="soft_targets", temperature=20.0
        ),
    ),
    "deep-inversion": _cmi_family(
        "deep-inversion", 200 * 400, replace(RECIPES["deep-inversion"].source, steps=2000, rate=0.1)
    ),
    "cmi": _cmi_family("cmi", 200 * 400, replace(RECIPES["cmi"].source, steps=500, rate=1e-3)),
    "condensed-expansion": _cmi_family(
        "condensed-expansion",
        220 * 400,
        replace(RECIPES["condensed-expansion"].source, steps=10, rate=2e-3, warm_up=1 / 11),
    ),
    "condensed-cmi": _cmi_family(
        "condensed-cmi",
        200 * 400,
        replace(RECIPES["condensed-cmi"].source, steps=500, rate=1e-3),
    ),
    "fast": _cmi_family(
        "fast",
        220 * 400,
        replace(RECIPES["fast"].source, steps=5, rate=3e-3, latent_rate=0.01, warm_up=1 / 11),
        rate=0.2,
    ),
    "nayer": _cmi_family(
        "nayer",
        320 * 400,
        replace(RECIPES["nayer"].source, steps=30, rate=4e-3, warm_up=1 / 16),
        rate=0.2,
        made=400,
        learned=512,
    ),
    "noise": _faithful(
        "noise",
        200 * 196,
        source=RECIPES["noise"].source,
        memory=_GALLERY,
        learning=replace(RECIPES["noise"].learning, batch=256),
    ),
}
