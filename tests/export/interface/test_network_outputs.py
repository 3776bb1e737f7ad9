"""Names and types of the outputs of a network."""

import pytest
import torch

from export.errors import UnsupportedNetworkError
from export.interface.network_outputs import named_outputs


def test_complex_numbers_are_rejected() -> None:
    """A complex output is rejected with its name and a replacement; its real view is accepted."""
    spectrum = torch.fft.rfft(torch.ones(2, 4))
    with pytest.raises(
        UnsupportedNetworkError, match=r"the network's 'spectrum' is complex64, .* return torch\.view_as_real"
    ):
        named_outputs({"spectrum": spectrum})
    assert named_outputs(torch.view_as_real(spectrum))["output"].shape == (2, 3, 2)
