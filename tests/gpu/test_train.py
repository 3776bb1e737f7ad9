"""Training on the GPU."""

from pathlib import Path

import pytest
import torch

from zoo.settings import TrainSettings
from zoo.training.trainer import Step, train

pytestmark = pytest.mark.gpu


def test_training_steps(tmp_path: Path, device: str) -> None:
    """One epoch on digits runs on the device, and reduces the loss."""
    steps: list[Step] = []
    before = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    settings = TrainSettings(network="convnet4", data="digits", epochs=1, device=device)  # type: ignore[arg-type]
    result = train(settings, tmp_path / "run", lambda event: steps.append(event) if isinstance(event, Step) else None)
    assert len(steps) > 10
    assert steps[-1].loss < steps[0].loss
    assert result.test_accuracy > 0.3
    if device == "cuda":
        assert torch.cuda.max_memory_allocated() > before
