"""Where a run stands, on disk: RUN/state, safetensors and JSON, replaced whole. A run that has ended has none.

What is drawn at random follows from the seed, the epoch and the batch or the image, and the learning rate from the
number of the step. So weights, the optimiser's memory and a position are all that a run needs to go on bit by bit.
"""

import json
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import FrameType
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from zoo.errors import CheckpointError, SettingsError
from zoo.runs.checkpoint import check_tensors, holds_folds, read_json, read_settings
from zoo.settings import TrainSettings
from zoo.storage.atomic_io import fallback, new_folder, standing_folder
from zoo.training.context import device_of

FREE = ("workers", "checkpoint_every_steps", "track")  # settings that may differ: they have no effect on the weights
PLAIN = (bool, int, float, str, type(None))


@dataclass
class Position:
    """How far a run has come: `batch` batches into `epoch`, with their losses; a line for each epoch before it."""

    epoch: int = 1
    batch: int = 0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)


def save_state(
    run: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    position: Position,
    data_key: str,
) -> None:
    """Write all that the run needs to go on from here."""
    tensors, plain = _parts(optimizer.state_dict())
    state = {
        **asdict(position),
        "data_key": data_key,
        "optimizer": plain,
        "scaler": scaler.state_dict() if scaler else None,
    }
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in network.state_dict().items()}
    with new_folder(run / "state") as unfinished:
        safetensors.torch.save_file(weights, unfinished / "model.safetensors")
        safetensors.torch.save_file(tensors, unfinished / "optimizer.safetensors")
        (unfinished / "state.json").write_text(json.dumps(state), encoding="utf-8")


def load_state(
    run: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    data_key: str,
) -> Position:
    """Put network, optimiser and scaler where the run stopped; a run that stopped before it saved anything begins anew.

    Raises:
        CheckpointError: the state cannot be read, or is of other training data.
    """
    folder = standing_folder(run / "state")
    if not folder.is_dir():
        return Position()
    state = read_json(folder / "state.json")
    if state["data_key"] != data_key:
        raise CheckpointError(f"the training images of {run} have changed since it began; train a new run on them")
    try:
        weights, tensors = (
            safetensors.torch.load_file(folder / f"{name}.safetensors") for name in ("model", "optimizer")
        )
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"the state {folder} cannot be read: {error}") from error
    check_tensors(folder / "model.safetensors", weights, network.state_dict())
    network.load_state_dict(weights)
    optimizer.load_state_dict(_joined({**tensors, **state["optimizer"]}, optimizer.state_dict()))
    _lay_like_parameters(optimizer)
    if scaler is not None:
        scaler.load_state_dict(state["scaler"])
    return Position(**{each.name: state[each.name] for each in fields(Position)})


def drop_state(run: Path) -> None:
    """Forget where the run stood, since it has ended."""
    for folder in (run / "state", fallback(run / "state")):
        shutil.rmtree(folder, ignore_errors=True)


def check_resumable(run: Path, settings: TrainSettings) -> None:
    """Require a run that these settings began and that has not ended.

    Raises:
        CheckpointError: there is no run, or it has ended.
        SettingsError: it was begun with other settings; they are named.
    """
    _refuse_folds(run)
    check_same_settings(run, settings)
    if has_ended(run):
        raise CheckpointError(f"{run} has ended; there is nothing to resume")


def check_same_settings(run: Path, settings: TrainSettings) -> None:
    """Require a run that these settings began.

    Raises:
        CheckpointError: there is no run.
        SettingsError: it was begun with other settings; they are named.
    """
    was = read_settings(run)
    names = [each.name for each in fields(TrainSettings) if each.name not in FREE]
    differ = [
        f"{name} was {getattr(was, name)}, now {getattr(settings, name)}"
        for name in names
        if _differ(was, settings, name)
    ]
    if differ:
        raise SettingsError(f"{run} was begun with other settings: {'; '.join(differ)}")


def has_ended(run: Path) -> bool:
    """Whether a run has come to its end, where it is measured on the test split."""
    best = standing_folder(run / "best")
    return best.is_dir() and "test_accuracy" in read_json(best / "metrics.json")


@contextmanager
def interruptions() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that a step can be finished; the second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _refuse_folds(run: Path) -> None:
    """Say of a folder of folds how one goes on with them."""
    if holds_folds(run):
        folds = read_settings(run / "fold-1").folds
        raise SettingsError(f"{run} was begun with --folds {folds}: go on with it by --folds {folds} --resume")


def _differ(was: TrainSettings, settings: TrainSettings, name: str) -> bool:
    if name == "device" and "auto" in (was.device, settings.device):  # it is the device that it stands for here
        return device_of(was) != device_of(settings)
    return bool(getattr(was, name) != getattr(settings, name))


def _parts(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as tensors and as plain values, both by `parameter.INDEX.NAME` or `group.INDEX.NAME`."""
    tensors, plain = {}, {}
    for key, value in _entries(state):
        if isinstance(value, Tensor):
            tensors[key] = value.detach().cpu().clone().contiguous()
        elif isinstance(value, PLAIN):
            plain[key] = value
        elif key.startswith("parameter."):
            raise CheckpointError(f"this optimizer keeps a {type(value).__name__} ({key}), which cannot be saved")
    return tensors, plain


def _entries(state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for index, memory in state["state"].items():
        yield from ((f"parameter.{index}.{name}", value) for name, value in memory.items())
    for index, group in enumerate(state["param_groups"]):
        yield from ((f"group.{index}.{name}", value) for name, value in group.items())


def _lay_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give memories the layout of their parameters, as a fresh optimiser does: files know no strides."""
    for parameter, memory in optimizer.state.items():
        for name, value in memory.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                memory[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _joined(parts: Mapping[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `_parts`, on the state of a fresh optimiser of the same parameters."""
    memory: dict[int, dict[str, Any]] = {}
    groups = [dict(group) for group in fresh["param_groups"]]
    for key, value in parts.items():
        kind, index, name = key.split(".", 2)
        place = groups[int(index)] if kind == "group" else memory.setdefault(int(index), {})
        place[name] = value
    return {"state": memory, "param_groups": groups}
