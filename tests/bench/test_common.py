"""Summaries of benchmark measurements."""

import pytest

from bench.common import format_summary, summary


class TestSummary:
    """The median and its confidence interval."""

    def test_few_values(self) -> None:
        """For fewer than six values the interval is the full range."""
        result = summary([3.0, 1.0, 2.0, 9.0, 4.0])
        assert (result["median"], result["low"], result["high"], result["noisy"]) == (3.0, 1.0, 9.0, True)

    def test_outliers(self) -> None:
        """Outliers among many values do not widen the interval."""
        result = summary([*[10.0 + step / 100 for step in range(24)], 0.1, 99.0])
        assert 10.0 < result["low"] < result["median"] < result["high"] < 10.24
        assert (result["least"], result["most"], result["noisy"]) == (0.1, 99.0, False)

    @pytest.mark.parametrize(("count", "rank"), [(6, 0), (10, 1), (20, 5), (100, 40)])
    def test_interval_ranks(self, count: int, rank: int) -> None:
        """The ranks are those of sign-test tables, or one rank closer to the median."""
        assert summary([float(value) for value in range(count)])["low"] == rank

    def test_shown(self) -> None:
        """A summary is formatted as the median and its interval."""
        assert format_summary(summary([1.0, 1.0, 1.01]), 2) == "1.00 (1.00 to 1.01)"
