"""Options from a TOML file, the environment and flags."""

import json

import pytest

QUICK = {"epochs": 1, "batch_size": 100, "lr": 0.03, "device": "cpu"}


@pytest.fixture
def config(tmp_path):
    """Return a function that writes a file of options, with data and run folder."""

    def write(**options):
        values = {"data": "digits", "out": str(tmp_path / "run"), **QUICK, **options}
        (tmp_path / "f.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
        return tmp_path / "f.toml"

    return write


@pytest.fixture
def settings(tmp_path):
    """Return a function that reads the settings of the run."""
    return lambda: json.loads((tmp_path / "run" / "config.json").read_text())["settings"]


def test_precedence(command, config, settings, monkeypatch):
    """Flags override the environment, which overrides the file, which overrides the defaults."""
    monkeypatch.setenv("ZOONNX_LR", "0.02")
    monkeypatch.setenv("ZOONNX_SEED", "7")
    finished = command("train", "convnet4", "--config", config(seed=5, drop_rate=0.1), "--seed", "9")
    assert finished.status == 0, finished.err
    values = settings()
    assert (values["seed"], values["lr"], values["batch_size"], values["drop_rate"]) == (9, 0.02, 100, 0.1)
    assert values["weight_decay"] == 0.01


def test_the_environment_is_enough(command, tmp_path, settings, monkeypatch):
    """All options can come from the environment, without a file."""
    for name, value in {**QUICK, "data": "digits", "out": tmp_path / "run", "max_shift": 1}.items():
        monkeypatch.setenv(f"ZOONNX_{name.upper()}", str(value))
    assert command("train", "convnet4").status == 0
    assert (settings()["max_shift_px"], settings()["epochs"]) == (1, 1)


def test_a_file_turns_a_switch_on(command, config, tune_settings, weights_file, settings):
    """`probe = true` is `--probe`."""
    file = config(
        data=tune_settings.data, pretrained_file=str(weights_file), input_size="3,32,32", probe=True, workers=0
    )
    assert command("tune", "test_resnet", "--config", file).status == 0
    assert settings()["transfer"]["cached"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": 3}, "there is no option 'epoch' for this verb; did you mean 'epochs'"),
        ({"head": "mlp"}, "there is no option 'head' for this verb"),
        ({"resume": True}, "there is no option 'resume' for this verb"),
        ({"epochs": 2.5}, "integer"),
        ({"epochs": [1]}, "the option 'epochs' must be a single value; got [1]"),
        ({"device": "tpu"}, "tpu"),
        ({"epochs": True}, "the option 'epochs' must be a whole number; got true"),
        ({"lr": False}, "the option 'lr' must be a number; got false"),
        ({"optimizer": True}, "the option 'optimizer' must be a value other than true or false; got true"),
        ({"channels_last": "yes"}, "the option 'channels_last' must be true or false; got \"yes\""),
        ({"channels_last": 1}, "the option 'channels_last' must be true or false; got 1"),
    ],
)
def test_a_wrong_file_is_refused(command, config, tmp_path, options, message):
    """The error names the wrong option; nothing is written."""
    finished = command("train", "convnet4", "--config", config(**options))
    assert (finished.status, message in finished.err, (tmp_path / "run").exists()) == (2, True, False)


def test_an_unknown_variable_is_refused(command, config, monkeypatch):
    """A misspelt variable is an error."""
    monkeypatch.setenv("ZOONNX_EPOCHES", "3")
    finished = command("train", "convnet4", "--config", config())
    assert finished.err == (
        "zoonnx train: in the environment (prefix ZOONNX_): there is no option 'EPOCHES' for this verb; "
        "did you mean 'EPOCHS'?\n"
    )


@pytest.mark.parametrize("text", ["epochs = ", None])
def test_a_file_that_is_not_toml(command, tmp_path, text):
    """Invalid TOML and a missing file are refused."""
    if text is not None:
        (tmp_path / "f.toml").write_text(text)
    finished = command("train", "convnet4", "--config", tmp_path / "f.toml")
    assert (finished.status, "f.toml cannot be read as TOML" in finished.err) == (2, True)
