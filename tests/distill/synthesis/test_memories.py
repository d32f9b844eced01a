"""Memories: the pool and how it gives up images, the bank, and the replay that holds no images."""

import copy
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from edgekd.distill.recipes.config import ReplayMemory
from edgekd.distill.synthesis.generative_replay import LATENT_RATE, Replay
from edgekd.distill.synthesis.image_pool import (
    ImagePool,
    PoolEntry,
    make_pool,
    to_float,
    to_uint8,
)
from edgekd.distill.synthesis.synthesis_loss import SynthesisLoss
from edgekd.distill.teachers.state_dict import state_digest
from edgekd.distill.training.checkpoint import RunFolder
from edgekd.records import InputSpec

CPU = torch.device("cpu")
SHAPE = (1, 1, 2)  # one value would not hold the number of an image


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def pool_of(eviction, *, capacity=4, batch=5, seed=0):
    return make_pool(capacity, batch, SHAPE, device=CPU, eviction=eviction, seed=seed)


def entry(first, classes):
    """Images that hold their own numbers, in two digits."""
    numbers = torch.arange(first, first + len(classes))
    images = torch.stack([numbers // 256, numbers % 256], 1).view(-1, *SHAPE).to(torch.uint8)
    return PoolEntry(images=images, classes=torch.tensor(classes), score=0.0)


def numbers_in(pool):
    kept = pool.images.long().flatten(0, 1).view(-1, 2)
    return (256 * kept[:, 0] + kept[:, 1])[: len(pool)].tolist()


def filled(pool, batches):
    for number in range(batches):
        classes = [each % 3 for each in range(pool.batch)]
        pool.add(entry(number * pool.batch, classes))
    return pool


# --- the pool that forgets the oldest -----------------------------------------------------------


@hypothesis_settings(max_examples=30, deadline=None)
@given(capacity=st.integers(1, 5), added=st.integers(0, 12))
def test_the_pool_holds_the_last_batches(capacity, added):
    pool = ImagePool(capacity, 2, (1, 2, 2), device=CPU)
    for number in range(added):
        images = torch.full((2, 1, 2, 2), number, dtype=torch.uint8)
        pool.add(PoolEntry(images=images, classes=torch.tensor([0, 1]), score=float(-number)))
    model = list(range(added))[-capacity:]
    assert len(pool) == 2 * len(model)
    assert pool.first_kept() == (model[0] if model else 0)
    assert [int(pool.entry(number).images[0, 0, 0, 0]) for number in model] == model
    assert [int(batch[0, 0, 0, 0]) for batch in pool.best_batches(2)] == model[::-1][:2]
    assert sum(pool.histogram(3)) == len(pool)


def test_eight_bits_survive_the_way_to_float_and_back():
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(values)), values)


def test_a_bank_is_replayed_by_whole_batches_and_forgets_in_order():
    bank = pool_of("oldest", capacity=3, batch=4)
    for number in range(7):
        bank.add(entry(4 * number, [0] * 4))
        drawn_batches = set()
        for seed in range(40):
            values = bank.sample_batch(4, generator=drawn(seed)).long().view(-1, 2)
            found = (256 * values[:, 0] + values[:, 1]).tolist()
            assert found == list(range(found[0], found[0] + 4))
            drawn_batches.add(found[0] // 4)
        assert drawn_batches == set(range(max(0, number - 2), number + 1))
    assert len(bank.sample_batch(2, generator=drawn())) == 2


# --- pools that give up single images -----------------------------------------------------------


@pytest.mark.parametrize("eviction", ["oldest", "reservoir", "balanced"])
def test_a_pool_never_holds_more_than_it_may_nor_an_image_twice(eviction):
    pool = filled(pool_of(eviction), 12)
    assert len(pool) == 20
    found = numbers_in(pool)
    assert len(set(found)) == 20
    assert max(found) >= 20  # later ones came in
    assert [number % 5 % 3 for number in found] == pool.classes.flatten().tolist()


def test_a_reservoir_holds_every_image_ever_made_with_the_same_probability():
    """Counts over 600 seeds against the law; the limit is one in a hundred thousand."""
    counts = torch.zeros(60)
    for seed in range(600):
        counts[numbers_in(filled(pool_of("reservoir", seed=seed), 12))] += 1
    expected = 600 * 20 / 60
    # Each count is binomial, and they sum to a constant: chi-squared of 59 degrees.
    chi_squared = float(((counts - expected) ** 2 / (expected * (1 - 20 / 60))).sum() * 59 / 60)
    assert chi_squared < 120
    assert float(counts[:20].sum()) == pytest.approx(float(counts[40:].sum()), rel=0.05)
    assert counts.sum() == 600 * 20


def test_a_pool_of_the_oldest_is_no_reservoir():
    assert numbers_in(filled(pool_of("oldest"), 12))[:5] == [40, 41, 42, 43, 44]
    assert min(numbers_in(filled(pool_of("reservoir"), 12))) < 20


def test_balanced_eviction_evens_the_classes():
    """All of one class first; then few of the others, and every one of them stays."""
    pool = pool_of("balanced", capacity=6, batch=5)
    for number in range(6):
        pool.add(entry(5 * number, [0] * 5))
    assert pool.histogram(3) == [30, 0, 0]
    for number in range(6, 10):
        pool.add(entry(5 * number, [1, 2, 1, 2, 0]))
    assert pool.histogram(3) == [14, 8, 8]
    for number in range(10, 30):
        pool.add(entry(5 * number, [1, 2, 0, 0, 0]))
    # A new image may take the place of one of the others of as many.
    assert max(pool.histogram(3)) - min(pool.histogram(3)) <= 2


@pytest.mark.parametrize("eviction", ["oldest", "reservoir", "balanced"])
@pytest.mark.parametrize("before", [2, 4, 9])
def test_a_pool_that_was_saved_takes_and_gives_the_same(eviction, before, tmp_path):
    """Through the folder of a run, when it is not yet full, just full, and long full."""
    first, second = (
        Stored(filled(pool_of(eviction), before), pool_of("oldest", capacity=2)),
        Stored(pool_of(eviction, seed=7), pool_of("oldest", capacity=2)),
    )
    with RunFolder.open(tmp_path / "run", {}, restart=False) as folder:
        folder.save(first)
        more(first.pool, before, 1)
        folder.save(first)
    with RunFolder.open(tmp_path / "run", {}, restart=False) as folder:
        assert folder.load(second)
    for run in (first, second):
        more(run.pool, before + 1, 5)
    assert numbers_in(first.pool) == numbers_in(second.pool)
    assert torch.equal(first.pool.classes, second.pool.classes)
    assert first.pool.made == second.pool.made == before + 6
    one, other = (run.pool.sample(30, generator=drawn(3)) for run in (first, second))
    assert torch.equal(one, other)


def test_a_selective_pool_leaves_one_shard(tmp_path):
    run = Stored(pool_of("reservoir"), pool_of("oldest", capacity=2))
    with RunFolder.open(tmp_path / "run", {}, restart=False) as folder:
        for number in range(9):
            more(run.pool, number, 1)
            folder.save(run)
    assert len(list((tmp_path / "run").glob("pool-*"))) == 1


def more(pool, first, count):
    for number in range(first, first + count):
        pool.add(entry(number * pool.batch, [each % 3 for each in range(pool.batch)]))


class Stored:
    """The least that a folder of a run can save."""

    device = CPU

    def __init__(self, pool, held_out):
        self.pool, self.held_out = pool, held_out

    def pools(self):
        return (("pool", self.pool), ("held_out", self.held_out))

    def state_dict(self):
        return {name: pool.state_dict() for name, pool in self.pools()}

    def load_state_dict(self, state):
        for name, pool in self.pools():
            pool.load_state_dict(state[name])


# --- the replay ----------------------------------------------------------------------------------

SPEC = InputSpec(channels=1, height=16, width=16, mean=(0.5,), std=(0.25,))


def stripes(count, *, generator):
    """Four classes: where the light quarter of an image is, with some noise (N, 1, 16, 16)."""
    classes = torch.arange(count) % 4
    images = 0.2 + 0.1 * torch.rand(count, 1, 16, 16, generator=generator)
    for number, decided in enumerate(classes.tolist()):
        images[number, :, :, 4 * decided : 4 * decided + 4] += 0.5
    return images


class LightestQuarter(nn.Module):
    """A teacher by hand: the mean of each quarter is its logit."""

    def forward(self, x):
        return 4 * x.unflatten(3, (4, 4)).mean((1, 2, 4))


class Constant(nn.Module):
    """A teacher that says the same of everything, and whose answers have a gradient of zero."""

    def forward(self, x):
        return 0 * x.flatten(1)[:, :4]


def judge_of(teacher):
    return SynthesisLoss(
        teacher=teacher.eval(), student=nn.Identity(), spec=SPEC, classes=4,
        autocast=nullcontext, device=CPU,
    )  # fmt: skip


def replay_of(seed=0, latent_rate=LATENT_RATE, **settings):
    memory = ReplayMemory(batches=8, entry=128, latents=8, width=8, **settings)
    replay = Replay(memory, SPEC, device=CPU, layout=torch.contiguous_format, generator=drawn(seed))
    for group in replay.optimizer.param_groups:
        group["lr"] = 3e-3  # so that a test sees in few steps that it learns
    replay.latent_rate = latent_rate
    return replay


def taught(replay, criterion, steps, *, seed=1):
    draw = drawn(seed)
    return [
        float(replay.learn(criterion, stripes(16, generator=draw), generator=draw))
        for _ in range(steps)
    ]


def test_the_replay_learns_to_keep_what_the_teacher_answers():
    criterion, replay = judge_of(LightestQuarter()), replay_of()
    shown = stripes(64, generator=drawn(9))
    before = replay.measure_fidelity(criterion, shown)
    losses = taught(replay, criterion, 30)
    assert before < 0.6
    assert replay.measure_fidelity(criterion, shown) > 0.9
    assert losses[-1] < 0.5 * losses[0]


def test_what_is_replayed_has_the_shape_asked_and_spreads_over_the_classes():
    criterion, replay = judge_of(LightestQuarter()), replay_of()
    taught(replay, criterion, 50)
    images = replay.sample(criterion, 64, generator=drawn(4))
    assert images.shape == (64, 1, 16, 16)
    assert 0 <= images.min() < images.max() <= 1
    assert not images.requires_grad
    decided = criterion.teacher(criterion.normalise(images)).argmax(1)
    assert torch.bincount(decided, minlength=4).min() >= 3


def moments_apart(latents):
    return float(
        latents.mean(0).square().mean() + (latents.var(0, correction=0) - 1).square().mean()
    )


def test_latents_are_moved_towards_the_moments_of_a_standard_normal():
    criterion, replay = judge_of(Constant()), replay_of(latent_rate=0.05)
    for seed in range(5):
        as_drawn = torch.randn(16, 8, generator=drawn(seed))
        tuned = replay.latents(criterion, 16, generator=drawn(seed))
        assert moments_apart(tuned) < moments_apart(as_drawn)
        # One step of Adam: each entry by its rate.
        assert (tuned - as_drawn).abs().max() <= 0.05 * 1.001


def test_latents_are_moved_to_what_the_teacher_is_sure_of():
    criterion, replay = judge_of(LightestQuarter()), replay_of(latent_rate=0.1)
    taught(replay, criterion, 50)

    def unsure(latents):
        with torch.no_grad():
            logits = criterion.teacher(criterion.normalise(replay.decoder(latents)))
            return float(nn.functional.cross_entropy(logits, logits.argmax(1)))

    tuned = replay.latents(criterion, 64, generator=drawn(4))
    assert unsure(tuned) < unsure(torch.randn(64, 8, generator=drawn(4)))


def test_the_replay_does_not_grow():
    criterion, replay = judge_of(LightestQuarter()), replay_of()
    size = replay.nbytes
    taught(replay, criterion, 3)
    held = sum(part.numel() for part in replay.decoder.parameters())
    assert replay.nbytes == size
    assert size >= 4 * held


def test_a_replay_that_was_saved_goes_on_as_it_would_have():
    criterion = judge_of(LightestQuarter())
    first, second = replay_of(), replay_of(seed=5)
    taught(first, criterion, 4)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert taught(first, criterion, 3, seed=2) == taught(second, criterion, 3, seed=2)
    for one, other in ((first.encoder, second.encoder), (first.decoder, second.decoder)):
        assert state_digest(one.state_dict()) == state_digest(other.state_dict())
    images = [each.sample(criterion, 8, generator=drawn(6)) for each in (first, second)]
    assert torch.equal(*images)


def test_the_replay_learns_from_its_own_memories_after_the_first_step():
    """Its draws show it: the second step draws latents beside the noise of the encoder."""
    criterion, replay = judge_of(LightestQuarter()), replay_of()
    images = stripes(16, generator=drawn(9))
    used = []
    for _ in range(2):
        draw = drawn(1)
        replay.learn(criterion, images, generator=draw)
        used.append(torch.rand((), generator=draw))
    only_noise = drawn(1)
    torch.randn(16, 8, generator=only_noise)
    expected = torch.rand((), generator=only_noise)
    assert used[0] == expected
    assert used[1] != expected
