"""A run's report, a single HTML file, and its model card.

Both are made from the run's files, its dataset and one evaluation. Apart from the times, the same run gives the same
files.
"""

from zoo.report.card import write_card
from zoo.report.evaluated_run import EvaluatedRun, evaluated_run_of
from zoo.report.page import require_new_file, write_report
from zoo.report.write import CARD, REPORT, write_report_and_card

__all__ = [
    "CARD",
    "REPORT",
    "EvaluatedRun",
    "evaluated_run_of",
    "require_new_file",
    "write_card",
    "write_report",
    "write_report_and_card",
]
