"""The report and the model card of a finished run."""

from pathlib import Path

from torch import nn

from zoo.data.dataset import Dataset
from zoo.errors import ZooError
from zoo.evaluation.evaluate import Evaluation
from zoo.report.card import write_card
from zoo.report.evaluated_run import evaluated_run_of
from zoo.report.page import write_report

REPORT, CARD = "report.html", "README.md"


def write_report_and_card(run: Path, network: nn.Module, data: Dataset, test: Evaluation) -> str:
    """Write RUN/report.html and RUN/README.md; return the error message if that failed, else an empty string.

    The error is not raised, as the run itself is complete: its weights and metrics are already written.
    """
    try:
        evaluated = evaluated_run_of(run, network, data, "test", test)
        write_report(run / REPORT, evaluated)
        write_card(run / CARD, evaluated)
    except (OSError, ZooError) as error:
        return str(error)
    return ""
