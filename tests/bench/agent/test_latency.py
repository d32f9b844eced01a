from edgekd.bench.agent import latency


class Machine:
    """A clock that only a call moves, by the times it is given; the last one repeats."""

    def __init__(self, *times_ns) -> None:
        self.times_ns = list(times_ns)
        self.elapsed_ns = 0
        self.calls = 0

    def now(self) -> int:
        return self.elapsed_ns

    def call(self) -> None:
        self.elapsed_ns += self.times_ns[min(self.calls, len(self.times_ns) - 1)]
        self.calls += 1


def test_warm_up_outlasts_a_step_in_the_times():
    # 6.8 to 4.95 ms after 24 calls, as reported of a TensorRT model.
    machine = Machine(*[6_800_000] * 24, 4_950_000)
    warmup = latency.warm_up(machine.call, 0.1, 5.0, machine.now)
    assert warmup.stationary
    assert latency.time_calls(machine.call, 0.1, 10**6, machine.now) == [4_950_000] * 21


def test_warm_up_that_never_settles_stops_at_the_cap_and_says_so():
    machine = Machine(*[1_000_000 + 20_000 * index for index in range(2000)])
    warmup = latency.warm_up(machine.call, 0.1, 1.0, machine.now)
    assert not warmup.stationary
    assert 1.0 <= warmup.seconds < 1.1


def test_warm_up_lasts_for_its_minimum_and_its_number_of_calls():
    fast = Machine(1000)
    assert latency.warm_up(fast.call, 0.5, 5.0, fast.now).seconds >= 0.5
    slow = Machine(20_000_000)
    assert latency.warm_up(slow.call, 0.1, 5.0, slow.now).runs >= latency.MIN_WARMUP_RUNS


def test_a_model_slower_than_the_cap_is_called_once():
    machine = Machine(10_000_000_000)
    assert latency.warm_up(machine.call, 0.5, 5.0, machine.now).runs == 1


def test_every_call_is_kept_in_order():
    machine = Machine(3, 1, 1000, 2, 5)
    assert latency.time_calls(machine.call, 1.0, 5, machine.now) == [3, 1, 1000, 2, 5]


def test_at_least_one_call_is_timed():
    machine = Machine(7)
    assert latency.time_calls(machine.call, 0.0, 100, machine.now) == [7]


def test_the_clock_is_monotonic_and_its_step_is_positive():
    now = latency.clock()
    assert now() <= now()
    assert latency.clock_step_ns(now) >= 1
