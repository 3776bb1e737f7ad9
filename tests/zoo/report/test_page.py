"""The report of a run."""

import json
import re

import pytest
import torch

from zoo.errors import DataError
from zoo.report import require_new_file, write_report
from zoo.report.page import build_page
from zoo.runs.checkpoint import read_epochs

HOSTILE = ('</style><script>alert("1")</script>', "a & b", "<img src=x onerror=alert(1)>", "caf\udce9")
TIMES = re.compile(r'<section id="times">.*?</section>', re.DOTALL)


@pytest.fixture
def page(evaluated_run, tmp_path, read):
    """Return the parsed report of the short run."""
    file = tmp_path / "report.html"
    write_report(file, evaluated_run)
    return read(file.read_text())


def without_times(file):
    """Return a report without its section of times."""
    page, sections = TIMES.subn("", file.read_text())
    assert sections == 1
    return page


def test_page_is_self_contained(page):
    """The page has no script and loads nothing: every address is an image in the page itself."""
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)


def test_numbers_are_those_of_the_run(page, evaluated_run):
    """The page has the accuracy and loss of the run, and a row for each class."""
    accuracy = evaluated_run.checkpoint.metrics["test_accuracy"]
    assert f"{accuracy:.2%}".replace("%", "\N{NO-BREAK SPACE}%") in page.text
    assert f"{evaluated_run.evaluation.loss:.4f}" in page.text
    scores = [row for row in page.rows if len(row) == 7][1:]
    assert [row[0] for row in scores] == [str(digit) for digit in range(10)]
    assert sum(int(row[2]) for row in scores) == 360


def test_confusion_matrix_counts_every_image(page, evaluated_run):
    """The confusion matrix has true classes in rows and predictions in columns."""
    rows = [row for row in page.rows if len(row) == 11][1:]
    counts = torch.tensor([[int(cell) for cell in row[1:]] for row in rows])
    evaluation = evaluated_run.evaluation
    expected = [
        [int(((evaluation.targets == true) & (evaluation.predictions == predicted)).sum()) for predicted in range(10)]
        for true in range(10)
    ]
    assert counts.tolist() == expected


def test_curves_are_those_of_metrics_jsonl(evaluated_run):
    """Each curve has a point per epoch, in the order of the values, and the best epoch is marked."""
    loss, accuracy, *_ = build_page(evaluated_run).charts
    epochs = read_epochs(evaluated_run.run)
    assert [line.name for line in loss.lines] == ["training", "validation"]
    for line, key in zip([*loss.lines, *accuracy.lines], ["train_loss", "val_loss", "val_accuracy"], strict=True):
        heights = [-y for _, y in line.points]
        values = [epoch[key] for epoch in epochs]
        assert [heights.index(height) for height in sorted(heights)] == [
            values.index(value) for value in sorted(values)
        ]
    best = [epoch["epoch"] for epoch in epochs].index(evaluated_run.checkpoint.metrics["epoch"])
    assert loss.best_x == loss.lines[0].points[best][0]


def test_names_are_escaped(make_evaluated_run, tmp_path, read):
    """Class names are shown literally and are not interpreted as HTML."""
    file = tmp_path / "report.html"
    write_report(file, make_evaluated_run(torch.eye(4), torch.tensor([1, 2, 3, 0]), HOSTILE, temperature=2.0))
    page = read(file.read_text())
    assert "script" not in page.tags
    assert page.tags.count("img") == 4  # the images of four mistakes
    assert all(name.replace("\udce9", "?") in page.text for name in HOSTILE)


@pytest.mark.parametrize("classes", [2, 31, 1000])
def test_few_and_many_classes(make_evaluated_run, tmp_path, read, classes):
    """Up to 30 classes have a confusion matrix, more the confused pairs; above 100 the worst scores come first."""
    generator = torch.Generator().manual_seed(classes)
    targets = torch.randint(classes, (300,), generator=generator)
    logits = torch.nn.functional.one_hot(targets, classes) + 0.5 * torch.randn(300, classes, generator=generator)
    file = tmp_path / "report.html"
    write_report(file, make_evaluated_run(logits, targets, tuple(f"name {index}" for index in range(classes))))
    page = read(file.read_text())
    assert ("too large to read" in page.text) == (classes > 30)
    assert ("with the lowest F1" in page.text) == (classes > 100)
    assert any(row[0] == "name 1" for row in page.rows if len(row) == 7)


def test_multi_label_page(make_evaluated_run, tmp_path, read):
    """For images with several labels there is average precision instead of a confusion matrix."""
    targets = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    file = tmp_path / "report.html"
    write_report(
        file, make_evaluated_run(torch.tensor([[2.0, -1], [1, -1], [-1, 2]]), targets, ("cat", "dog"), temperature=0.5)
    )
    page = read(file.read_text())
    assert "average precision" in page.text
    assert "Confusion matrix" not in page.text
    assert "Most confused classes" not in page.text


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_signals_with_any_number_of_channels(make_evaluated_run, tmp_path, channels):
    """Each misclassified signal has a curve per channel."""
    images = torch.zeros(4, 1, 50, channels, dtype=torch.uint8)
    file = tmp_path / "report.html"
    write_report(file, make_evaluated_run(torch.eye(4), torch.tensor([1, 2, 3, 0]), ("a", "b", "c", "d"), images))
    assert file.read_text().count("line channel") == 4 * channels


def test_no_mistakes_and_no_temperature(make_evaluated_run, tmp_path, read):
    """The page states that there are no mistakes or no temperature."""
    file = tmp_path / "report.html"
    write_report(file, make_evaluated_run(9 * torch.eye(3), torch.arange(3), ("a", "b", "c")))
    page = read(file.read_text())
    assert "No image was misclassified." in page.text
    assert "no temperature was fitted" in page.text


def test_page_is_reproducible(evaluated_run, tmp_path):
    """The same run gives the same page, apart from the times."""
    for name in ("one", "two"):
        write_report(tmp_path / name, evaluated_run)
    assert without_times(tmp_path / "one") == without_times(tmp_path / "two")


def test_page_is_written_atomically(evaluated_run, tmp_path, monkeypatch):
    """If a new page cannot be made, the old one stays and no partial file is left."""
    file = tmp_path / "report.html"
    file.write_text("old")
    monkeypatch.setattr("zoo.report.page.build_page", lambda evaluated: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(file, evaluated_run)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert file.read_text() == "old"


def test_existing_file_is_not_replaced(tmp_path):
    """`eval --report` does not overwrite a file."""
    file = tmp_path / "report.html"
    file.write_text("")
    with pytest.raises(DataError, match=r"report\.html already exists; nothing was overwritten"):
        require_new_file(file)


def test_eval_writes_a_report_of_another_split(command, short_run, tmp_path, read):
    """`eval --report` writes a page with the numbers that it prints."""
    file = tmp_path / "val.html"
    printed = command("eval", short_run, "--data", "digits", "--split", "val", "--report", file, "--json")
    accuracy = json.loads(printed.out)["accuracy"]
    assert printed.status == 0
    page = read(file.read_text())
    assert f"{accuracy:.2%}".replace("%", "\N{NO-BREAK SPACE}%") in page.text
    assert "evaluated on the val split of digits" in page.text
    again = command("eval", short_run, "--data", "digits", "--report", file)
    assert (again.status, "nothing was overwritten" in again.err) == (2, True)
