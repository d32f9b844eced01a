from edgekd.distill.training.stability import format_stability
from edgekd.records import HistoryPoint


def point(agreement):
    return HistoryPoint(step=1, images=8, elapsed_s=1.0, losses={}, agreement=agreement)


def test_a_figure_that_was_taken_once_has_no_deviation():
    assert format_stability([point(0.5), point(None)]) == [
        "agreement of the delivered student: 50.00%, looked at once"
    ]


def test_a_figure_over_a_run_has_its_last_best_and_mean():
    (line,) = format_stability([point(0.5), point(1.0), point(0.75)])
    assert line == (
        "agreement of the delivered student: final 75.00%, best 100.00%, mean 75.00% (sd 20.41%); last fifth 75.00% "
        "(sd 0.00%)"
    )
