"""Likely label errors: their ranking, the table and the contact sheet."""

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.splits import MemorySplit
from zoo.evaluation.label_noise import COLUMNS, image_names, issue_sheet, issues_csv, rank_label_issues, thresholds
from zoo.networks.preprocessing import Preprocessing

# Five images labelled 0 and four labelled 1; the last of each is mislabelled, and image 3 is only ambiguous.
PROBABILITIES = torch.tensor(
    [[0.9, 0.1], [0.8, 0.2], [0.95, 0.05], [0.45, 0.55], [0.1, 0.9], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7], [0.92, 0.08]]
)
TARGETS = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1])


def test_thresholds_are_the_mean_confidence_of_each_class() -> None:
    """Equation 2 of the paper, computed by hand."""
    assert thresholds(PROBABILITIES, TARGETS).tolist() == pytest.approx([0.64, 0.62])


def test_wrong_labels_come_first() -> None:
    """A label is suspicious if another class reaches its threshold; an ambiguous image is not."""
    issues = rank_label_issues(PROBABILITIES, TARGETS)
    assert [issue.index for issue in issues[:3]] == [8, 4, 3]
    assert [issue.is_suspicious for issue in issues[:3]] == [True, True, False]
    assert [(issue.label, issue.suggestion) for issue in issues[:2]] == [(1, 0), (0, 1)]
    assert issues[0].margin == pytest.approx(0.08 - 0.92)


def test_a_class_without_images_is_never_suspected() -> None:
    """A class without images has a threshold that no probability reaches."""
    probabilities = torch.cat([PROBABILITIES * 0.1, torch.full((9, 1), 0.9)], dim=1)
    assert not any(issue.is_suspicious and issue.suggestion == 2 for issue in rank_label_issues(probabilities, TARGETS))


def test_the_table_has_a_row_for_each_image() -> None:
    """Rows are in rank order, with names of images and classes."""
    issues = rank_label_issues(PROBABILITIES, TARGETS)
    names = [f"train {index}" for index in range(9)]
    rows = list(csv.DictReader(io.StringIO(issues_csv(issues, names, ("cat", "dog")).decode())))
    assert len(rows) == 9
    assert list(rows[0].values()) == ["train 8", "dog", "cat", "-0.8400", "yes"]


def test_image_names(painted) -> None:
    """Images of a folder are named by their files, others by split and index."""
    from zoo.data.registry import find_data

    preprocessing = Preprocessing(input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
    data = find_data(f"folder:{painted}").for_network(preprocessing)
    names = image_names({"train": data.train, "memory": MemorySplit(torch.zeros(2, 1, 1, 1), torch.zeros(2))})
    assert names[0] == str(data.train.files[0])
    assert names[-2:] == ["memory 0", "memory 1"]


@pytest.mark.parametrize("shape", [(8, 8, 1), (30, 20, 3), (1, 128, 1)])
def test_the_sheet_shows_the_images(shape) -> None:
    """Bright images make bright tiles: greyscale images, RGB images and signals."""
    issues = rank_label_issues(PROBABILITIES, TARGETS)

    def sheet(value: int) -> np.ndarray:
        images = MemorySplit(torch.full((9, *shape), value, dtype=torch.uint8), TARGETS)
        return np.array(Image.open(io.BytesIO(issue_sheet(issues, images, ("a very long label indeed", "b")))))

    dark, bright = sheet(0), sheet(255)
    assert dark.shape[1] > COLUMNS * 100
    assert bright.astype(int).sum() - dark.astype(int).sum() > 9 * 3 * 255 * 50 * shape[0] / max(shape[:2])
