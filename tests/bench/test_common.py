"""The figures of the benchmarks."""

import pytest

from bench.common import shown, summary


class TestSummary:
    """A median, and how far to trust it."""

    def test_few_values_are_all_told(self) -> None:
        """Of less than six values the interval is all of them."""
        found = summary([3.0, 1.0, 2.0, 9.0, 4.0])
        assert (found["median"], found["low"], found["high"], found["noisy"]) == (3.0, 1.0, 9.0, True)

    def test_outliers_of_many_values_are_left_out(self) -> None:
        """One turn in which the machine did something else does not make the median doubtful."""
        found = summary([*[10.0 + each / 100 for each in range(24)], 0.1, 99.0])
        assert 10.0 < found["low"] < found["median"] < found["high"] < 10.24
        assert (found["least"], found["most"], found["noisy"]) == (0.1, 99.0, False)

    @pytest.mark.parametrize(("count", "rank"), [(6, 0), (10, 1), (20, 5), (100, 40)])
    def test_the_interval_is_that_of_order_statistics(self, count: int, rank: int) -> None:
        """The ranks of tables for a sign test, or one further in at most."""
        assert summary([float(each) for each in range(count)])["low"] == rank

    def test_shown(self) -> None:
        """For people."""
        assert shown(summary([1.0, 1.0, 1.01]), 2) == "1.00 (1.00 to 1.01)"
