"""What a centre crop leaves out, and that a run says so."""

from dataclasses import replace

import pytest

from zoo.data.crop_check import share_left_out
from zoo.data.registry import find_data
from zoo.networks.preprocessing import Preprocessing

RULE = Preprocessing(input_size=(3, 24, 24), mean=(0.5,) * 3, std=(0.25,) * 3)


def images(paint, root, *sizes):
    """Eight images of each size in each of two classes."""
    for label in ("red", "blue"):
        for number, size in enumerate(sizes):
            paint(root / label / str(number), 8, (90, 90, 90), size, seed=number)
    return find_data(f"folder:{root}")


@pytest.mark.parametrize(
    ("sizes", "rule", "expected"),
    [
        ([(40, 30)], RULE, 0.25),
        ([(30, 40)], RULE, 0.25),
        ([(20, 80)], RULE, 0.75),
        ([(40, 40)], RULE, 0.0),
        ([(40, 40), (40, 40), (40, 30)], RULE, 0.0),
        ([(40, 30), (40, 30), (40, 40)], RULE, 0.25),
        ([(40, 30)], replace(RULE, input_size=(3, 24, 32)), 0.0),
        ([(40, 40)], replace(RULE, input_size=(3, 24, 32)), 0.25),
        ([(40, 30)], replace(RULE, crop_mode="squash"), 0.0),
    ],
)
def test_the_share_is_that_of_most_images(paint, tmp_path, sizes, rule, expected):
    """Of either side, against the network's own shape; a rule that does not crop leaves out nothing."""
    data = images(paint, tmp_path, *sizes).for_net(rule)
    assert share_left_out(data) == pytest.approx(expected, abs=1 / 255)


@pytest.mark.parametrize(("size", "told"), [((40, 30), True), ((32, 32), False)])
def test_a_run_says_so_in_one_line(command, paint, tmp_path, caplog, size, told):
    """Before it begins, and only where there is something to say."""
    images(paint, tmp_path / "set", size)
    asked = ["--epochs", 1, "--device", "cpu", "--workers", 0, "--input-size", "3,32,32", "--batch-size", 8]
    said = command("train", "test_resnet", "--data", f"folder:{tmp_path / 'set'}", "--out", tmp_path / "run", *asked)
    assert said.status == 0, said.err
    expected = (
        "most images are not of the network's shape, 32x32: a centre crop leaves out 25% of a typical one, at its edges; "
        "docs/data.md says how to keep it"
    )
    assert caplog.messages == [expected] * told
