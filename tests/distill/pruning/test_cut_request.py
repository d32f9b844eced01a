"""What a user may write behind --student cut:"""

import pytest

from edgekd.distill.pruning.cut_request import LatencyRequest, is_cut, parse_cut
from edgekd.errors import UsageError
from edgekd.records import CutRequest


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("cut:0.5", CutRequest(measure="width", share=0.5)),
        ("cut:macs=.25", CutRequest(measure="macs", share=0.25)),
        ("cut:params=0.1,depth=0.5", CutRequest(measure="params", share=0.1, depth=0.5)),
    ],
)
def test_what_is_asked_for_is_understood_and_written_as_it_was(asked, found):
    assert parse_cut(asked) == found
    assert parse_cut(str(found)) == found


@pytest.mark.parametrize(
    ("asked", "seconds", "depth"),
    [("cut:latency=2ms", 2e-3, 1.0), ("cut:latency=.5s,depth=0.5", 0.5, 0.5), ("cut:latency=250us", 250 * 1e-6, 1.0)],
)  # fmt: skip
def test_a_latency_has_a_unit(asked, seconds, depth):
    assert parse_cut(asked) == LatencyRequest(seconds=seconds, depth=depth)


@pytest.mark.parametrize(
    "asked",
    ["cut:", "cut:latency=0ms", "cut:latency=2min", "cut:latency=1ms,latency=2ms", "cut:latency=1ms,macs=0.5",
     "cut:0.5,latency=1ms", "cut:0.5,depth=1.5", "cut:latency=-1ms", "cut:0", "cut:1", "cut:1.5", "cut:-1", "cut:macs", "cut:nan", "cut:macs=0.5,params=0.5", "cut:depth=0.5",
     "cut:0.5,0.5", "cut:0.5,depth=2", "cut:bytes=0.5"],
)  # fmt: skip
def test_what_cannot_be_left_is_refused_with_the_grammar(asked):
    assert is_cut(asked)
    with pytest.raises(UsageError, match="cut:macs=SHARE"):
        parse_cut(asked)
