"""Image folders: splits, errors, decoding, views and training."""

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
from zoo.data.image_folder import open_folder
from zoo.data.image_io import read_image
from zoo.data.registry import find_data, load_dataset, redacted_name
from zoo.errors import DataError, SettingsError
from zoo.evaluation.evaluate import evaluate
from zoo.networks.preprocessing import Preprocessing
from zoo.runs.load import load_network
from zoo.settings import TrainSettings
from zoo.training.trainer import train

PREPROCESSING = Preprocessing(input_size=(3, 24, 24), mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=0.9)


@pytest.fixture
def folder(painted, tmp_path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(painted, tmp_path / "colours")


def keep_first(folder, count):
    """Remove all but the first `count` files."""
    for file in sorted(folder.iterdir())[count:]:
        file.unlink()


def names(split):
    """Return the files of a split as CLASS/NAME."""
    return {f"{file.parent.name}/{file.name}" for file in split.files}


def open_dataset(root, preprocessing=PREPROCESSING, **options):
    """Return a folder's dataset for a network with that preprocessing."""
    return find_data(f"folder:{root}", **options).for_network(preprocessing)


class TestSplits:
    """The assignment of images to splits."""

    def test_a_tenth_of_each_class_is_held_out(self, painted):
        """A tenth of each class becomes val and a tenth test; each image is in exactly one split."""
        data = open_dataset(painted)
        assert data.labels == ("blue", "red")
        counts = [split.targets.bincount().tolist() for split in (data.train, data.val, data.test)]
        assert counts == [[16, 16], [2, 2], [2, 2]]
        assert len(names(data.train) | names(data.val) | names(data.test)) == 40

    def test_splits_depend_on_file_names_only(self, painted, paint, tmp_path):
        """In another folder the files of the same names are held out, whatever their pixels."""
        other = tmp_path / "elsewhere"
        for label in ("red", "blue"):
            paint(other / label, 20, (9, 9, 9), size=(8, 8))
        assert names(open_dataset(other).test) == names(open_dataset(painted).test)
        assert names(open_dataset(other).val) == names(open_dataset(painted).val)

    def test_existing_splits_are_used(self, paint, tmp_path):
        """Folders train, val and test become the splits as they are."""
        for name, count in (("train", 3), ("val", 2), ("test", 1)):
            for label in ("a", "b"):
                paint(tmp_path / name / label, count, (9, 9, 9), size=(8, 8))
        data = open_dataset(tmp_path)
        assert [len(data.train), len(data.val), len(data.test)] == [6, 4, 2]
        assert {file.parent.parent.name for file in data.val.files} == {"val"}

    def test_a_missing_split_is_held_out_of_train(self, paint, tmp_path):
        """With folders train and test only, val is held out of train."""
        for name, count in (("train", 5), ("test", 1)):
            for label in ("a", "b"):
                paint(tmp_path / name / label, count, (9, 9, 9), size=(8, 8))
        data = open_dataset(tmp_path)
        assert [len(data.train), len(data.val), len(data.test)] == [8, 2, 2]
        assert {file.parent.parent.name for file in data.val.files} == {"train"}


class TestErrors:
    """Folders with bad images or invalid classes."""

    def test_bad_images_are_listed_in_one_error(self, folder):
        """The error lists all bad images with their reasons, and how to continue."""
        (folder / "red" / "003.png").write_bytes(b"no image")
        png = (folder / "blue" / "004.png").read_bytes()
        (folder / "blue" / "004.png").write_bytes(png[: len(png) // 2])
        with pytest.raises(DataError) as caught:
            open_dataset(folder)
        assert "2 of 40 images" in str(caught.value)
        assert "red/003.png (not an image that Pillow can read)" in str(caught.value)
        assert "blue/004.png (" in str(caught.value)
        assert "--bad-images skip" in str(caught.value)

    def test_skipped_images_are_reported(self, folder):
        """Skipped images are in no split, and listed in `skipped`."""
        (folder / "red" / "003.png").write_bytes(b"no image")
        data = open_dataset(folder, bad_images="skip")
        used = names(data.train) | names(data.val) | names(data.test)
        assert (len(used), "red/003.png" in used) == (39, False)
        assert data.skipped == ("red/003.png (not an image that Pillow can read)",)

    def test_a_class_with_only_bad_images_is_an_error(self, folder):
        """Skipping all images of a class does not remove the class."""
        for file in (folder / "red").iterdir():
            file.write_bytes(b"")
        with pytest.raises(DataError, match=r"the class folder 'red' in .* has no images"):
            open_dataset(folder, bad_images="skip")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda root: shutil.rmtree(root / "red"), r"has 1 class folders \(blue\); at least 2 are needed"),
            (lambda root: (root / "green").mkdir(), "the class folder 'green' in .* has no images"),
            (
                lambda root: [shutil.copytree(root / "red", root / "green"), keep_first(root / "green", 2)],
                "'green' in .* has 2 images; splitting them needs at least 3",
            ),
            (shutil.rmtree, "there is no folder .*; expected one sub-folder of images per class"),
        ],
        ids=["one class", "empty class", "too few", "no folder"],
    )
    def test_an_invalid_folder(self, folder, change, message):
        """The error states the cause and what is expected."""
        change(folder)
        with pytest.raises(DataError, match=message):
            open_dataset(folder)

    def test_an_unknown_class_in_val(self, paint, tmp_path):
        """A class of val that train does not have is an error."""
        for name in ("train/a", "train/b", "val/a", "val/c"):
            paint(tmp_path / name, 3, (1, 2, 3), size=(8, 8))
        with pytest.raises(DataError, match=r"val has the class folder 'c', which .*train does not have"):
            open_folder(str(tmp_path), "fail")

    def test_load_dataset_is_for_built_in_datasets(self):
        """The error for an unknown name lists the other sources, such as folders."""
        with pytest.raises(DataError, match="There are: digits, signal, folder:PATH, torchvision:NAME, hf:NAME"):
            load_dataset("flowers")


class TestImages:
    """Decoding of image files into greyscale or RGB."""

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "I;16"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_every_mode_keeps_black_and_white(self, tmp_path, mode, channels):
        """A white image with a black left half has the same pixels in every mode."""
        pixels = np.full((6, 8), 255, np.uint8)
        pixels[:, :4] = 0
        if mode == "I;16":
            image = Image.fromarray(pixels.astype(np.uint16) * 257)
        else:
            image = Image.fromarray(pixels).convert(mode if mode in ("1", "L", "LA", "P") else "RGB").convert(mode)
        file = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
        image.save(file)
        actual = np.asarray(read_image(file, channels)).reshape(6, 8, channels)
        assert np.array_equal(actual, np.repeat(pixels[:, :, np.newaxis], channels, axis=2))

    def test_a_transparent_palette_is_read_without_a_warning(self, tmp_path):
        """A palette with transparency as bytes, about which Pillow warns in a direct conversion, causes no warning."""
        image = Image.new("P", (4, 4))
        image.putpalette([10, 20, 30] * 256)
        image.save(tmp_path / "p.png", transparency=bytes(range(256)))
        assert read_image(tmp_path / "p.png", 3).getpixel((0, 0)) == (10, 20, 30)

    def test_16_bits_are_scaled(self, tmp_path):
        """Half of 65,535 becomes half of 255."""
        Image.fromarray(np.full((2, 2), 0x8000, np.uint16)).save(tmp_path / "deep.png")
        assert read_image(tmp_path / "deep.png", 1).getpixel((0, 0)) == 128

    def test_images_are_rotated_by_their_exif_orientation(self, tmp_path):
        """An EXIF orientation of 6 rotates the image clockwise."""
        exif = Image.Exif()
        exif[0x0112] = 6
        image = Image.new("RGB", (8, 4))
        image.putpixel((0, 0), (255, 255, 255))
        image.save(tmp_path / "p.png", exif=exif)
        upright = read_image(tmp_path / "p.png", 1)
        assert (upright.size, upright.getpixel((3, 0))) == ((4, 8), 255)

    def test_modes_and_sizes_share_a_batch(self, tmp_path):
        """Images of any mode and size form one batch, in both views, with the same pixels with and without workers."""
        for label in ("a", "b"):
            (tmp_path / label).mkdir()
            for index, mode in enumerate(("1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "I;16")):
                image = Image.new("RGB", (10 + 13 * index, 40 - 3 * index), (90, 90, 90))
                deep = Image.fromarray(np.full((9, 30), 90 * 257, np.uint16))
                (deep if mode == "I;16" else image.convert(mode)).save(tmp_path / label / f"{index}.tif")
        batch_indices = [torch.arange(12)]
        training_view = TrainingView(PREPROCESSING, Augmentation(flip=0.5, min_crop=0.2), seed=0, epoch=1)
        for view in (None, training_view):
            (without_workers,), (with_workers,) = (
                open_dataset(tmp_path, workers=workers).train.batches(batch_indices, view) for workers in (0, 2)
            )
            assert (without_workers.shape, without_workers.dtype) == ((12, 24, 24, 3), torch.uint8)
            assert torch.equal(without_workers, with_workers)

    def test_a_link_to_nothing_is_a_bad_file(self, folder):
        """A dangling symbolic link is listed as a file that does not exist."""
        (folder / "red" / "lost.png").symlink_to(folder / "nowhere.png")
        with pytest.raises(DataError, match=r"red/lost\.png \(the file does not exist\)"):
            open_dataset(folder)

    def test_floats_are_refused(self, tmp_path):
        """Images of floats have no known range."""
        Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "f.tif")
        with pytest.raises(DataError, match=r"f\.tif: its pixel values are floats of unknown range"):
            read_image(tmp_path / "f.tif", 3)


class TestViews:
    """Preprocessing and augmentation of images."""

    def test_evaluation_equals_timms_transform(self, painted):
        """The evaluation view equals timm's transform, pixel by pixel."""
        from timm.data import create_transform

        timm_transform = create_transform((3, 24, 24), interpolation="bilinear", crop_pct=0.9, normalize=False)
        split = open_dataset(painted).test
        actual = torch.cat(list(split.batches([torch.tensor([0, 1]), torch.tensor([2])])))
        expected = torch.stack([timm_transform(Image.open(file).convert("RGB")) for file in split.files[:3]])
        assert torch.equal(actual, expected.permute(0, 2, 3, 1))

    def test_global_generators_do_not_change(self, painted):
        """Batches leave torch's and Python's global generators as they were."""
        torch.manual_seed(3)
        random.seed(3)
        expected = (torch.rand(1), random.random())
        torch.manual_seed(3)
        random.seed(3)
        view = TrainingView(PREPROCESSING, Augmentation(flip=0.5, min_crop=0.2), seed=0, epoch=1)
        list(open_dataset(painted).train.batches([torch.arange(4)], view))
        assert (torch.rand(1), random.random()) == expected


@pytest.fixture(scope="session")
def settings(painted) -> TrainSettings:
    """Settings for one short epoch on the painted images."""
    return TrainSettings(
        network="resnet8", data=f"folder:{painted}", epochs=1, batch_size=8, lr=3e-3, workers=0, device="cpu"
    )


@pytest.fixture(scope="session")
def folder_run(settings, tmp_path_factory) -> Path:
    """A finished run of `settings`; tests must not change it."""
    run = tmp_path_factory.mktemp("runs") / "folder"
    train(settings, run)
    return run


def weights(run):
    """Return the bytes of the last checkpoint's weights."""
    return (run / "last" / "model.safetensors").read_bytes()


def test_workers_do_not_change_the_weights(settings, folder_run, tmp_path):
    """Training with two decoding processes produces the same weights, bit for bit, as with none."""
    train(replace(settings, workers=2), tmp_path / "run")
    assert weights(tmp_path / "run") == weights(folder_run)


@pytest.mark.parametrize(
    "change",
    [{"flip": 0.0}, {"min_crop": 1.0}, {"rand_augment": 9}, {"cutmix": 1.0}, {"input_size": (1, 16, 16)}],
    ids=str,
)
def test_settings_for_images_have_an_effect(settings, folder_run, tmp_path, change):
    """Each image setting changes the weights."""
    train(replace(settings, **change), tmp_path / "run")
    assert weights(tmp_path / "run") != weights(folder_run)


@pytest.fixture(scope="module")
def digits_run(short_settings, tmp_path_factory):
    """A run of one epoch on digits without augmentation."""
    run = tmp_path_factory.mktemp("runs") / "digits"
    train(replace(short_settings, epochs=1), run)
    return run


@pytest.mark.parametrize("change", [{"flip": 0.5}, {"min_crop": 0.5}], ids=str)
def test_built_in_datasets_are_augmented_on_request(short_settings, digits_run, tmp_path, change):
    """Digits are mirrored or cropped only if the settings request it."""
    train(replace(short_settings, epochs=1, **change), tmp_path / "run")
    assert weights(tmp_path / "run") != weights(digits_run)


def test_built_in_datasets_have_a_fixed_size(short_settings, tmp_path):
    """An input size other than 8x8 is refused for digits."""
    with pytest.raises(SettingsError, match=r"digits have the size \(1, 8, 8\); input_size is \(1, 16, 16\)"):
        train(replace(short_settings, input_size=(1, 16, 16)), tmp_path / "run")


def test_a_loaded_run_has_its_labels_and_preprocessing(folder_run, painted):
    """A loaded run evaluates to the same accuracy, and its dataset's name contains no path."""
    loaded = load_network(folder_run)
    assert (loaded.labels, loaded.weights.dataset) == (("blue", "red"), "folder:colours")
    test = open_dataset(painted, loaded.preprocessing).test
    assert evaluate(loaded.network, test, loaded.preprocessing).accuracy == loaded.weights.metrics["test_accuracy"]


def test_the_redacted_name_has_no_path(tmp_path, monkeypatch):
    """Only the last component of a path remains, also for the current directory."""
    monkeypatch.chdir(tmp_path)
    assert [redacted_name(name) for name in ("digits", "folder:/a/b/", "folder:.")] == [
        "digits",
        "folder:b",
        f"folder:{tmp_path.name}",
    ]


def test_train_and_eval_from_the_command_line(command, folder, tmp_path):
    """`train` and `eval` learn a folder's classes, and both report the skipped file."""
    (folder / "red" / "003.png").write_bytes(b"no image")
    run, data = tmp_path / "run", ["--data", f"folder:{folder}", "--bad-images", "skip", "--workers", "0"]
    options = ["--epochs", 4, "--batch-size", 8, "--lr", 3e-3, "--input-size", "3,16,16", "--device", "cpu"]
    trained = command("train", "resnet8", *data, *options, "--out", run)
    assert (trained.status, "red/003.png" in trained.out) == (0, True)
    result = json.loads(command("eval", run, *data, "--json", "--split", "train").out)
    assert result["skipped"] == ["red/003.png (not an image that Pillow can read)"]
    assert result["accuracy"] > 0.9


def test_bad_images_end_the_command(command, folder, tmp_path):
    """A bad image ends `train` with status 2, one line and no run."""
    (folder / "red" / "003.png").write_bytes(b"no image")
    result = command("train", "resnet8", "--data", f"folder:{folder}", "--out", tmp_path / "run")
    assert (result.status, result.err.count("\n"), (tmp_path / "run").exists()) == (2, 1, False)
    assert "red/003.png" in result.err
