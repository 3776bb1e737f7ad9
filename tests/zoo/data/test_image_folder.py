"""Images in folders."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.augmentation import Augmentation, TrainingView
from zoo.data.image_folder import scan
from zoo.data.image_io import read_image
from zoo.data.registry import find_data, load_dataset, redacted_name
from zoo.errors import DataError, SettingsError
from zoo.evaluation.evaluate import evaluate
from zoo.networks.preprocessing import Preprocessing
from zoo.runs.load import load_network
from zoo.settings import TrainSettings
from zoo.training.trainer import train

RULE = Preprocessing(input_size=(3, 24, 24), mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=0.9)


@pytest.fixture
def folder(painted, tmp_path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(painted, tmp_path / "colours")


def thin_out(folder, left):
    """Remove all but some images."""
    for file in sorted(folder.iterdir())[left:]:
        file.unlink()


def names(part):
    """The files of a split, by class and name."""
    return {f"{file.parent.name}/{file.name}" for file in part.files}


def dataset(root, rule=RULE, **options):
    """A folder's data as a network of that rule takes them."""
    return find_data(f"folder:{root}", **options).for_net(rule)


class TestDivision:
    """Which image is in which split."""

    def test_every_class_is_divided_and_nothing_is_lost(self, painted):
        """A tenth of each class for val and for test, no image twice."""
        data = dataset(painted)
        assert data.labels == ("blue", "red")
        counts = [split.targets.bincount().tolist() for split in (data.train, data.val, data.test)]
        assert counts == [[16, 16], [2, 2], [2, 2]]
        assert len(names(data.train) | names(data.val) | names(data.test)) == 40

    def test_only_the_names_decide(self, painted, paint, tmp_path):
        """Elsewhere, and with other pixels, the same files are held out."""
        other = tmp_path / "elsewhere"
        for label in ("red", "blue"):
            paint(other / label, 20, (9, 9, 9), size=(8, 8))
        assert names(dataset(other).test) == names(dataset(painted).test)
        assert names(dataset(other).val) == names(dataset(painted).val)

    def test_given_folders_are_taken_as_they_are(self, paint, tmp_path):
        """Train, val and test."""
        for name, count in (("train", 3), ("val", 2), ("test", 1)):
            for label in ("a", "b"):
                paint(tmp_path / name / label, count, (9, 9, 9), size=(8, 8))
        data = dataset(tmp_path)
        assert [len(data.train), len(data.val), len(data.test)] == [6, 4, 2]
        assert {file.parent.parent.name for file in data.val.files} == {"val"}

    def test_a_missing_split_comes_off_train(self, paint, tmp_path):
        """Test is there, val is not."""
        for name, count in (("train", 5), ("test", 1)):
            for label in ("a", "b"):
                paint(tmp_path / name / label, count, (9, 9, 9), size=(8, 8))
        data = dataset(tmp_path)
        assert [len(data.train), len(data.val), len(data.test)] == [8, 2, 2]
        assert {file.parent.parent.name for file in data.val.files} == {"train"}


class TestRefusals:
    """Folders that are not as they should be."""

    def test_bad_images_are_named_in_one_report(self, folder):
        """All of them, with the reason, and how to go on."""
        (folder / "red" / "003.png").write_bytes(b"no image")
        whole = (folder / "blue" / "004.png").read_bytes()
        (folder / "blue" / "004.png").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError) as caught:
            dataset(folder)
        assert "2 of 40 images" in str(caught.value)
        assert "red/003.png (it is no image that Pillow knows)" in str(caught.value)
        assert "blue/004.png (" in str(caught.value)
        assert "--bad-images skip" in str(caught.value)

    def test_skipped_images_are_left_out_and_named(self, folder):
        """Nothing takes their place."""
        (folder / "red" / "003.png").write_bytes(b"no image")
        data = dataset(folder, bad_images="skip")
        every = names(data.train) | names(data.val) | names(data.test)
        assert (len(every), "red/003.png" in every) == (39, False)
        assert data.skipped == ("red/003.png (it is no image that Pillow knows)",)

    def test_a_class_of_nothing_but_bad_images_is_empty(self, folder):
        """Skipping does not make a class vanish."""
        for file in (folder / "red").iterdir():
            file.write_bytes(b"")
        with pytest.raises(DataError, match=r"the class folder 'red' in .* holds no image"):
            dataset(folder, bad_images="skip")

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda root: shutil.rmtree(root / "red"), r"holds 1 class folders \(blue\); a classifier needs two"),
            (lambda root: (root / "green").mkdir(), "the class folder 'green' in .* holds no image"),
            (
                lambda root: [shutil.copytree(root / "red", root / "green"), thin_out(root / "green", 2)],
                "'green' in .* has 2 images; to divide them it needs 3",
            ),
            (shutil.rmtree, "there is no folder .*; images lie in one folder a class"),
        ],
        ids=["one class", "empty class", "too few", "no folder"],
    )
    def test_a_folder_that_is_no_data_set(self, folder, spoil, message):
        """The message says what is wrong and what is wanted."""
        spoil(folder)
        with pytest.raises(DataError, match=message):
            dataset(folder)

    def test_an_unknown_class_in_val(self, paint, tmp_path):
        """A class that training never saw cannot be measured."""
        for place in ("train/a", "train/b", "val/a", "val/c"):
            paint(tmp_path / place, 3, (1, 2, 3), size=(8, 8))
        with pytest.raises(DataError, match=r"val has the class folder 'c', which .*train has not"):
            scan(tmp_path, "fail")

    def test_load_dataset_is_for_embedded_data(self):
        """It says that folders exist."""
        with pytest.raises(DataError, match="there are: digits, signal, folder:PATH, torchvision:NAME and hf:NAME"):
            load_dataset("flowers")


class TestImages:
    """Files of many kinds become grey or RGB."""

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "I;16"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_any_mode_keeps_its_grey(self, tmp_path, mode, channels):
        """A white image with a black left half stays that."""
        pixels = np.full((6, 8), 255, np.uint8)
        pixels[:, :4] = 0
        if mode == "I;16":
            image = Image.fromarray(pixels.astype(np.uint16) * 257)
        else:
            image = Image.fromarray(pixels).convert(mode if mode in ("1", "L", "LA", "P") else "RGB").convert(mode)
        file = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
        image.save(file)
        found = np.asarray(read_image(file, channels)).reshape(6, 8, channels)
        assert np.array_equal(found, np.repeat(pixels[:, :, np.newaxis], channels, axis=2))

    def test_a_transparent_palette_is_read_without_a_warning(self, tmp_path):
        """Pillow would warn of transparency in bytes."""
        image = Image.new("P", (4, 4))
        image.putpalette([10, 20, 30] * 256)
        image.save(tmp_path / "p.png", transparency=bytes(range(256)))
        assert read_image(tmp_path / "p.png", 3).getpixel((0, 0)) == (10, 20, 30)

    def test_sixteen_bits_are_scaled_not_cut(self, tmp_path):
        """Half of 65,535 is half of 255."""
        Image.fromarray(np.full((2, 2), 0x8000, np.uint16)).save(tmp_path / "deep.png")
        assert read_image(tmp_path / "deep.png", 1).getpixel((0, 0)) == 128

    def test_images_are_turned_upright(self, tmp_path):
        """As the camera's note says."""
        exif = Image.Exif()
        exif[0x0112] = 6  # turn right to be upright
        image = Image.new("RGB", (8, 4))
        image.putpixel((0, 0), (255, 255, 255))
        image.save(tmp_path / "p.png", exif=exif)
        upright = read_image(tmp_path / "p.png", 1)
        assert (upright.size, upright.getpixel((3, 0))) == ((4, 8), 255)

    def test_all_kinds_share_a_batch(self, tmp_path):
        """Of any mode and any size, whoever decodes them; a training view too."""
        for label in ("a", "b"):
            (tmp_path / label).mkdir()
            for index, mode in enumerate(("1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "I;16")):
                image = Image.new("RGB", (10 + 13 * index, 40 - 3 * index), (90, 90, 90))
                deep = Image.fromarray(np.full((9, 30), 90 * 257, np.uint16))
                (deep if mode == "I;16" else image.convert(mode)).save(tmp_path / label / f"{index}.tif")
        chosen = [torch.arange(12)]
        view = TrainingView(RULE, Augmentation(flip=0.5, min_crop=0.2), seed=0, epoch=1)
        for each in (None, view):
            (alone,), (helped,) = (dataset(tmp_path, workers=n).train.batches(chosen, each) for n in (0, 2))
            assert (alone.shape, alone.dtype) == ((12, 24, 24, 3), torch.uint8)
            assert torch.equal(alone, helped)

    def test_a_link_to_nothing_is_a_bad_file(self, folder):
        """It is named like any other."""
        (folder / "red" / "lost.png").symlink_to(folder / "nowhere.png")
        with pytest.raises(DataError, match=r"red/lost\.png \(there is no such file\)"):
            dataset(folder)

    def test_floats_are_refused(self, tmp_path):
        """Their range is unknown."""
        Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "f.tif")
        with pytest.raises(DataError, match=r"f\.tif: its numbers are floats, whose range nobody knows"):
            read_image(tmp_path / "f.tif", 3)


class TestViews:
    """What the network sees of an image."""

    def test_evaluation_sees_timms_own_transform(self, painted):
        """Pixel by pixel, though files come in batches."""
        from timm.data import create_transform

        theirs = create_transform((3, 24, 24), interpolation="bilinear", crop_pct=0.9, normalize=False)
        part = dataset(painted).test
        ours = torch.cat(list(part.batches([torch.tensor([0, 1]), torch.tensor([2])])))
        expected = torch.stack([theirs(Image.open(file).convert("RGB")) for file in part.files[:3]])
        assert torch.equal(ours, expected.permute(0, 2, 3, 1))

    def test_generators_are_left_alone(self, painted):
        """Whoever draws beside us notices nothing."""
        torch.manual_seed(3)
        random.seed(3)
        expected = (torch.rand(1), random.random())
        torch.manual_seed(3)
        random.seed(3)
        view = TrainingView(RULE, Augmentation(flip=0.5, min_crop=0.2), seed=0, epoch=1)
        list(dataset(painted).train.batches([torch.arange(4)], view))
        assert (torch.rand(1), random.random()) == expected


@pytest.fixture(scope="session")
def settings(painted) -> TrainSettings:
    """One short epoch."""
    return TrainSettings(
        network="resnet8", data=f"folder:{painted}", epochs=1, batch_size=8, lr=3e-3, workers=0, device="cpu"
    )


@pytest.fixture(scope="session")
def folder_run(settings, tmp_path_factory) -> Path:
    """A finished run of `settings`, to be read only."""
    run = tmp_path_factory.mktemp("runs") / "folder"
    train(settings, run)
    return run


def weights(run):
    """The bytes of the last checkpoint's weights."""
    return (run / "last" / "model.safetensors").read_bytes()


def test_workers_do_not_change_the_weights(settings, folder_run, tmp_path):
    """Two processes that decode give the same network as none, bit by bit."""
    train(replace(settings, workers=2), tmp_path / "run")
    assert weights(tmp_path / "run") == weights(folder_run)


@pytest.mark.parametrize(
    "change",
    [{"flip": 0.0}, {"min_crop": 1.0}, {"rand_augment": 9}, {"cutmix": 1.0}, {"input_size": (1, 16, 16)}],
    ids=str,
)
def test_settings_for_images_have_an_effect(settings, folder_run, tmp_path, change):
    """On the weights."""
    train(replace(settings, **change), tmp_path / "run")
    assert weights(tmp_path / "run") != weights(folder_run)


@pytest.fixture(scope="module")
def digits_run(short_settings, tmp_path_factory):
    """One epoch on digits as they are."""
    run = tmp_path_factory.mktemp("runs") / "digits"
    train(replace(short_settings, epochs=1), run)
    return run


@pytest.mark.parametrize("change", [{"flip": 0.5}, {"min_crop": 0.5}], ids=str)
def test_embedded_data_are_augmented_when_asked(short_settings, digits_run, tmp_path, change):
    """Digits are neither mirrored nor cropped unless someone wants it."""
    train(replace(short_settings, epochs=1, **change), tmp_path / "run")
    assert weights(tmp_path / "run") != weights(digits_run)


def test_embedded_data_keep_their_size(short_settings, tmp_path):
    """Digits are 8x8."""
    with pytest.raises(SettingsError, match=r"digits have the size \(1, 8, 8\); input_size is \(1, 16, 16\)"):
        train(replace(short_settings, input_size=(1, 16, 16)), tmp_path / "run")


def test_a_run_comes_back_with_its_labels_and_size(folder_run, painted):
    """And says nothing of where the folder lay."""
    loaded = load_network(folder_run)
    assert (loaded.labels, loaded.weights.dataset) == (("blue", "red"), "folder:colours")
    test = dataset(painted, loaded.preprocessing).test
    assert evaluate(loaded.network, test, loaded.preprocessing).accuracy == loaded.weights.metrics["test_accuracy"]


def test_the_public_name_has_no_path(tmp_path, monkeypatch):
    """Nor is it empty for the folder we stand in."""
    monkeypatch.chdir(tmp_path)
    assert [redacted_name(name) for name in ("digits", "folder:/a/b/", "folder:.")] == [
        "digits",
        "folder:b",
        f"folder:{tmp_path.name}",
    ]


def test_train_and_eval_from_the_command_line(command, folder, tmp_path):
    """A folder in, a network that knows its colours out; the file left out is named each time."""
    (folder / "red" / "003.png").write_bytes(b"no image")
    run, data = tmp_path / "run", ["--data", f"folder:{folder}", "--bad-images", "skip", "--workers", "0"]
    quick = ["--epochs", 4, "--batch-size", 8, "--lr", 3e-3, "--input-size", "3,16,16", "--device", "cpu"]
    trained = command("train", "resnet8", *data, *quick, "--out", run)
    assert (trained.status, "red/003.png" in trained.out) == (0, True)
    found = json.loads(command("eval", run, *data, "--json", "--split", "train").out)
    assert found["skipped"] == ["red/003.png (it is no image that Pillow knows)"]
    assert found["accuracy"] > 0.9


def test_bad_images_end_the_command(command, folder, tmp_path):
    """One sentence, status 2, no run."""
    (folder / "red" / "003.png").write_bytes(b"no image")
    said = command("train", "resnet8", "--data", f"folder:{folder}", "--out", tmp_path / "run")
    assert (said.status, said.err.count("\n"), (tmp_path / "run").exists()) == (2, 1, False)
    assert "red/003.png" in said.err
