"""The page about a run."""

import json
import re

import pytest
import torch

from zoo.errors import DataError
from zoo.report import refuse_taken, write_report
from zoo.report.page import page_of
from zoo.runs.checkpoint import read_epochs

HOSTILE = ('</style><script>alert("1")</script>', "a & b", "<img src=x onerror=alert(1)>", "caf\udce9")
TIMES = re.compile(r'<section id="times">.*?</section>', re.DOTALL)


@pytest.fixture
def page(subject, tmp_path, read):
    """The page of the short run."""
    file = tmp_path / "report.html"
    write_report(file, subject)
    return read(file.read_text())


def timeless(file):
    """A page without its times, which stand in one place."""
    page, found = TIMES.subn("", file.read_text())
    assert found == 1
    return page


def test_the_page_needs_nothing_else(page):
    """No script, no network: every address is an image in the page itself."""
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)


def test_the_numbers_are_those_of_the_run(page, subject):
    """Accuracy and calibration as best/metrics.json and `eval` have them; a row for each class."""
    accuracy = subject.checkpoint.metrics["test_accuracy"]
    assert f"{accuracy:.2%}".replace("%", "\N{NO-BREAK SPACE}%") in page.text
    assert f"{subject.evaluation.loss:.4f}" in page.text
    table = [row for row in page.rows if len(row) == 7]
    assert [row[0] for row in table[1:]] == [str(digit) for digit in range(10)]
    assert sum(int(row[2]) for row in table[1:]) == 360


def test_the_confusion_table_counts_every_image(page, subject):
    """Rows are the true classes."""
    rows = [row for row in page.rows if len(row) == 11][1:]
    counts = torch.tensor([[int(cell) for cell in row[1:]] for row in rows])
    evaluation = subject.evaluation
    expected = [
        [int(((evaluation.targets == true) & (evaluation.predictions == said)).sum()) for said in range(10)]
        for true in range(10)
    ]
    assert counts.tolist() == expected


def test_the_curves_are_those_of_metrics_jsonl(subject):
    """A point for each epoch, the higher the value the higher up; the best epoch is marked."""
    loss, accuracy, *_ = page_of(subject).charts
    epochs = read_epochs(subject.run)
    assert [line.name for line in loss.lines] == ["training", "validation"]
    for line, key in zip([*loss.lines, *accuracy.lines], ["train_loss", "val_loss", "val_accuracy"], strict=True):
        heights = [-y for _, y in line.points]
        values = [epoch[key] for epoch in epochs]
        assert [heights.index(each) for each in sorted(heights)] == [values.index(each) for each in sorted(values)]
    best = [epoch["epoch"] for epoch in epochs].index(subject.checkpoint.metrics["epoch"])
    assert loss.best_x == loss.lines[0].points[best][0]


def test_names_from_outside_are_text(made_up, tmp_path, read):
    """Class names are shown as they are and mean nothing to a browser."""
    file = tmp_path / "report.html"
    write_report(file, made_up(torch.eye(4), torch.tensor([1, 2, 3, 0]), HOSTILE, temperature=2.0))
    found = read(file.read_text())
    assert "script" not in found.tags
    assert found.tags.count("img") == 4  # the images of four mistakes
    assert all(name.replace("\udce9", "?") in found.text for name in HOSTILE)


@pytest.mark.parametrize("classes", [2, 31, 1000])
def test_few_and_many_classes(made_up, tmp_path, read, classes):
    """A table up to 30, then pairs; of more than a hundred classes the worst come first."""
    generator = torch.Generator().manual_seed(classes)
    targets = torch.randint(classes, (300,), generator=generator)
    logits = torch.nn.functional.one_hot(targets, classes) + 0.5 * torch.randn(300, classes, generator=generator)
    file = tmp_path / "report.html"
    write_report(file, made_up(logits, targets, tuple(f"name {index}" for index in range(classes))))
    found = read(file.read_text())
    assert ("cannot be read" in found.text) == (classes > 30)
    assert ("of the lowest F1" in found.text) == (classes > 100)
    assert any(row[0] == "name 1" for row in found.rows if len(row) == 7)


def test_several_labels_an_image(made_up, tmp_path, read):
    """Average precision in place of the confusion table."""
    targets = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    file = tmp_path / "report.html"
    write_report(file, made_up(torch.tensor([[2.0, -1], [1, -1], [-1, 2]]), targets, ("cat", "dog"), temperature=0.5))
    found = read(file.read_text())
    assert "average precision" in found.text
    assert "What is taken for what" not in found.text


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_signals_of_any_channels(made_up, tmp_path, channels):
    """A curve for each channel of each mistake."""
    images = torch.zeros(4, 1, 50, channels, dtype=torch.uint8)
    file = tmp_path / "report.html"
    write_report(file, made_up(torch.eye(4), torch.tensor([1, 2, 3, 0]), ("a", "b", "c", "d"), images))
    assert file.read_text().count("line channel") == 4 * channels


def test_no_mistakes_and_no_temperature(made_up, tmp_path, read):
    """Nothing to show is said in words."""
    file = tmp_path / "report.html"
    write_report(file, made_up(9 * torch.eye(3), torch.arange(3), ("a", "b", "c")))
    found = read(file.read_text())
    assert "There are none." in found.text
    assert "no temperature was fitted" in found.text


def test_the_same_run_gives_the_same_page(subject, tmp_path):
    """But for the times."""
    for name in ("one", "two"):
        write_report(tmp_path / name, subject)
    assert timeless(tmp_path / "one") == timeless(tmp_path / "two")


def test_a_page_appears_whole_or_not_at_all(subject, tmp_path, monkeypatch):
    """What stood there stays while a new page cannot be made; nothing half-written is left."""
    file = tmp_path / "report.html"
    file.write_text("old")
    monkeypatch.setattr("zoo.report.page.page_of", lambda subject: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(file, subject)
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]
    assert file.read_text() == "old"


def test_a_file_that_is_there_is_not_replaced(tmp_path):
    """By `eval --report`."""
    file = tmp_path / "report.html"
    file.write_text("")
    with pytest.raises(DataError, match=r"report\.html is there already; nothing was overwritten"):
        refuse_taken(file)


def test_eval_writes_a_page_of_another_split(command, short_run, tmp_path, read):
    """With the numbers that it prints."""
    file = tmp_path / "val.html"
    said = command("eval", short_run, "--data", "digits", "--split", "val", "--report", file, "--json")
    accuracy = json.loads(said.out)["accuracy"]
    assert said.status == 0
    page = read(file.read_text())
    assert f"{accuracy:.2%}".replace("%", "\N{NO-BREAK SPACE}%") in page.text
    assert "on the val split of digits" in page.text
    again = command("eval", short_run, "--data", "digits", "--report", file)
    assert (again.status, "nothing was overwritten" in again.err) == (2, True)
