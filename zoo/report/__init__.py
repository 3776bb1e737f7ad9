"""A run as a page that anyone can open, and as a model card.

Both follow from the run's files, its data and one evaluation; apart from the times they are the same for the same run.
"""

from zoo.report.card import write_card
from zoo.report.evaluated_run import EvaluatedRun, examine
from zoo.report.page import refuse_taken, write_report
from zoo.report.write import CARD, REPORT, write_papers

__all__ = ["CARD", "REPORT", "EvaluatedRun", "examine", "refuse_taken", "write_card", "write_papers", "write_report"]
