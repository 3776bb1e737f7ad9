"""The papers of a run that has ended."""

from pathlib import Path

from torch import nn

from zoo.data.registry import Dataset
from zoo.errors import ZooError
from zoo.evaluation.evaluate import Evaluation
from zoo.report.card import write_card
from zoo.report.evaluated_run import examine
from zoo.report.page import write_report

REPORT, CARD = "report.html", "README.md"


def write_papers(run: Path, network: nn.Module, data: Dataset, test: Evaluation) -> str:
    """Write RUN/report.html and RUN/README.md; return what kept them from being written, or nothing.

    No run is lost for want of a page: its weights and metrics are there already.
    """
    try:
        subject = examine(run, network, data, "test", test)
        write_report(run / REPORT, subject)
        write_card(run / CARD, subject)
    except (OSError, ZooError) as error:
        return str(error)
    return ""
