import torch

from edgekd.distill.synthesis.image_pool import ImagePool, PoolEntry
from edgekd.distill.training.snapshots import CLASSES_SHOWN, MOMENTS, Snapshots


def pool_of(*batches, capacity=8):
    """A pool of one-pixel images whose value is the number of their batch."""
    pool = ImagePool(capacity, len(batches[0]), (1, 1, 1), device=torch.device("cpu"))
    for number, decided in enumerate(batches):
        images = torch.full((len(decided), 1, 1, 1), number, dtype=torch.uint8)
        pool.add(PoolEntry(images=images, classes=torch.tensor(decided), score=0.0))
    return pool


def values(snapshot):
    return dict(zip(snapshot.classes, snapshot.images.flatten().tolist(), strict=True))


def test_the_first_moment_shows_the_first_batch_and_later_ones_the_newest():
    pool = pool_of([0, 1], [0, 1], [1, 2])
    seen = Snapshots(3)
    seen.look(pool, progress=0.01, step=1)
    assert values(seen.taken[0]) == {0: 0, 1: 0, 2: 2}
    for decided in ([0, 1], [0, 0]):
        images = torch.full((2, 1, 1, 1), pool.made, dtype=torch.uint8)
        pool.add(PoolEntry(images=images, classes=torch.tensor(decided), score=0.0))
    seen.look(pool, progress=0.06, step=2)
    assert values(seen.taken[1]) == {0: 4, 1: 3}  # of class 2 nothing was made since


def test_each_moment_is_taken_once_and_those_that_were_jumped_over_are_one():
    pool = pool_of([0, 1])
    seen = Snapshots(2)
    for progress in (0.0, 0.01, 0.04, 0.5, 0.6, 1.0, 1.0):
        seen.look(pool, progress=progress, step=0)
    assert [snapshot.progress for snapshot in seen.taken] == [0.0, 0.5, 1.0]
    late = Snapshots(2)
    late.look(pool, progress=0.2, step=60)  # the first round of a short run
    assert (late.taken[0].progress, late.taken[0].step) == (0.0, 0)
    assert seen.passed == len(MOMENTS)


def test_many_classes_are_shown_by_some_that_are_spread_over_them():
    assert Snapshots(10).wanted == tuple(range(10))
    assert Snapshots(1000).wanted == tuple(range(0, 1000, 100))
    assert len(Snapshots(13).wanted) == CLASSES_SHOWN


def test_a_state_is_restored_and_one_without_snapshots_goes_on_with_the_next_moment():
    pool = pool_of([0, 1])
    first, second, old = Snapshots(2), Snapshots(2), Snapshots(2)
    first.look(pool, progress=0.0, step=0)
    second.load_state_dict(first.state_dict(), progress=0.2, made=1)
    assert values(second.taken[0]) == values(first.taken[0])
    assert (second.passed, second.seen) == (1, 1)
    old.load_state_dict(None, progress=0.2, made=1)
    old.look(pool, progress=0.3, step=0)
    assert old.taken == []
    old.look(pool, progress=0.4, step=0)
    assert len(old.taken) == 1
