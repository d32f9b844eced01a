"""The recipes in their budgeted form, for a CPU or minutes of a GPU; `faithful` has the papers' own settings."""

from dataclasses import replace
from typing import Final

from edgekd.distill.kd_losses import LogitDistance, SoftTargets
from edgekd.distill.recipes.config import (
    Adversary,
    BankMemory,
    Learning,
    LossWeights,
    MetaSource,
    NoiseSource,
    NoisyLayerSource,
    NoMemory,
    PixelSource,
    PoolMemory,
    Provenance,
    Recipe,
    ReplayMemory,
    RestartedSource,
    UnconditionalSource,
)

_POOL_SOURCE: Final = MetaSource(batch=128, steps=10)
_POOL_LOSSES: Final = LossWeights(one_hot=2.0, batch_norm=1.0, adversarial=1.0)
_POOL_ADVERSARY: Final = Adversary(warm_up=0.1)
_POOL_LEARNING: Final = Learning(
    batch=128,
    steps=60,
    optimizer="sgd",
    rate=0.2,
    weight_decay=5e-4,
    loss=SoftTargets(temperature=20.0),
    mix=0.5,
    shift=0.125,
)
_POOL_MEMORY: Final = PoolMemory(batches=400, entry=128)

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
    losses=_POOL_LOSSES,
    adversary=_POOL_ADVERSARY,
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
    ),
    losses=LossWeights(
        one_hot=0.5,
        adversarial=1.0,
        disagreement=0.1,
        balance=1.0,
        total_variation=0.1,
        patches=0.1,
    ),
    adversary=replace(_POOL_ADVERSARY, fading=0.5),
    # None is given up before 2,000 batches: later images are no better (docs/log.md).
    memory=replace(_POOL_MEMORY, batches=2000),
    learning=replace(
        _POOL_LEARNING,
        batch=256,
        steps=120,
        optimizer="adam",
        rate=3e-3,
        weight_decay=0.0,
        loss=LogitDistance(),
        structured=0.8,
    ),
    first_batches=8,
)

# What the released code of the AAAI 2022 paper gives its generator; the logarithm is natural and scaled
# by ln K here: -H/ln K has the gradient of sum p log10 p times ln 10 / ln K, 1 for ten classes.
BINICI: Final = LossWeights(one_hot=1.0, balance=5.0, activation=0.1, jensen_shannon=1.0)
FLOW: Final = UnconditionalSource(batch=128, latents=128, rate=2e-3)
FLOW_LEARNING: Final = Learning(
    batch=128,
    steps=10,
    optimizer="adam",
    rate=2e-3,
    weight_decay=0.0,
    loss=LogitDistance(),
)
IN_TRAIN_MODE: Final = Adversary(student_in_train_mode=True)
GALLERY: Final = NoMemory(batches=8, entry=128, period=0.02)

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
    source=FLOW,
    losses=replace(BINICI, batch_norm=1.0),
    memory=BankMemory(batches=10, entry=128, period=0.0125, share=1 / 9),
    learning=FLOW_LEARNING,
)
_PSEUDO_REPLAY: Final = Recipe(
    name="pseudo-replay",
    about=Provenance(
        paper="Binici et al., Robust and Resource-Efficient Data-Free Knowledge Distillation by Generative Pseudo "
        "Replay, AAAI 2022",
        confirmed="generator losses, VAE with teacher responses, tuned latents, L1 of logits, batch and step counts "
        "(released code)",
        reconstructed="Jensen-Shannon per sample, as in the paper; the release averages over classes too, which "
        "leaves it inert for many of them",
        ours="budgeted: small batches, Adam and a narrow generator, 256 latents; a batch-norm term where the teacher "
        "has statistics; where it has none, four fifths of what the student sees are structured noise",
    ),
    source=FLOW,
    losses=replace(BINICI, batch_norm=1.0),
    memory=ReplayMemory(batches=8, entry=128, period=0.02, share=1 / 9, steps=1),
    learning=FLOW_LEARNING,
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
    source=replace(_POOL_SOURCE, expansion=0.75),
    losses=replace(_POOL_LOSSES, alignment=1.0),
    adversary=_POOL_ADVERSARY,
    memory=_POOL_MEMORY,
    learning=replace(_POOL_LEARNING, real=0.25),
    first_batches=8,
)
_CMI_SOURCE: Final = RestartedSource(batch=128, steps=40, rate=5e-3)
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
    source=_CMI_SOURCE,
    losses=LossWeights(one_hot=1.0, batch_norm=1.0, adversarial=0.5, contrastive=0.8),
    adversary=_POOL_ADVERSARY,
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
        source=replace(_CMI_SOURCE, expansion=0.75),
        losses=replace(_CMI.losses, alignment=1.0),
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
        source=FLOW,
        losses=replace(_PSEUDO_REPLAY.losses, alignment=1.0),
        adversary=_PSEUDO_REPLAY.adversary,
        memory=_PSEUDO_REPLAY.memory,
        learning=replace(FLOW_LEARNING, real=0.25),
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
        source=FLOW,
        losses=LossWeights(one_hot=0.05, balance=5.0, activation=0.01),
        adversary=IN_TRAIN_MODE,
        memory=GALLERY,
        learning=replace(FLOW_LEARNING, steps=1, loss=SoftTargets(temperature=1.0)),
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
        source=replace(FLOW, rate=1e-3),
        losses=LossWeights(disagreement=1.0),
        adversary=IN_TRAIN_MODE,
        memory=GALLERY,
        learning=replace(FLOW_LEARNING, steps=5),
    ),
    Recipe(
        name="zskt",
        about=Provenance(
            paper="Micaelli and Storkey, Zero-shot Knowledge Transfer via Adversarial Belief Matching, NeurIPS 2019",
            confirmed="the generator maximises, the student minimises the KL divergence, and nothing else",
            reconstructed="rates and temperature from a re-implementation; the paper's attention term is not used",
            ours="budgeted: a narrow generator",
        ),
        source=replace(FLOW, rate=1e-3),
        losses=LossWeights(divergence=1.0),
        adversary=IN_TRAIN_MODE,
        memory=GALLERY,
        learning=replace(FLOW_LEARNING, steps=5, loss=SoftTargets(temperature=20.0)),
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
        source=PixelSource(batch=128, steps=100, rate=0.05, jitter=2),
        losses=LossWeights(
            one_hot=1.0,
            batch_norm=10.0,
            first_bn_multiplier=10.0,
            jensen_shannon=10.0,
            total_variation=1e-2,
            l2=1e-3,
        ),
        adversary=_POOL_ADVERSARY,
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
        ),
        losses=LossWeights(one_hot=0.4, batch_norm=10.0, adversarial=1.33),
        adversary=_POOL_ADVERSARY,
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
        source=NoisyLayerSource(batch=128, steps=20, rate=4e-3, restart_every=1 / 30),
        losses=LossWeights(one_hot=0.5, batch_norm=10.0, adversarial=1.33),
        adversary=_POOL_ADVERSARY,
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
        source=NoiseSource(batch=128),
        memory=GALLERY,
        learning=replace(FLOW_LEARNING, rate=1e-3, loss=SoftTargets(temperature=1.0), steps=20),
    ),
)

RECIPES: Final[dict[str, Recipe]] = {recipe.name: recipe for recipe in _BOOK}
