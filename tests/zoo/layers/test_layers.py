"""The layers that PyTorch lacks."""

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from timm.utils.model import reparameterize_model
from torch import nn

from export.convert.convert import convert
from export.interface.interface import one_input
from tests.zoo.layers import reference
from zoo.errors import SettingsError
from zoo.layers import (
    BlurPool2d,
    LocallyConnected1d,
    LocallyConnected2d,
    TrueConv1d,
    TrueConv2d,
    count_windows,
    resolve_padding,
)

CONVS = {1: nn.Conv1d, 2: nn.Conv2d}
TRUE_CONVS = {1: TrueConv1d, 2: TrueConv2d}
LOCALS = {1: LocallyConnected1d, 2: LocallyConnected2d}


@st.composite
def cases(draw):
    """Draw a random input and a random, hence asymmetric, kernel that fits it, on one axis or two."""
    axes = draw(st.integers(1, 2))
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(axes))
    lengths = tuple(k + draw(st.integers(0, 5)) for k in kernel)
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return generator.standard_normal(lengths), generator.standard_normal(kernel)


def batched(values):
    """Return the values as a batch of one image of one channel."""
    return torch.from_numpy(values.copy())[None, None]


def unbatched(tensor):
    """Return the first channel of the first image."""
    return tensor.detach().numpy()[0, 0]


def with_weight(layer, w):
    """Return the layer in float64 with the kernel `w` and no bias."""
    layer = layer(1, 1, w.shape if w.ndim > 1 else len(w), bias=False).double()
    layer.weight.data.copy_(batched(w))
    return layer


def random_images(*shape):
    """Return random numbers, the same at each call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def exported_op_types(network, *input_size):
    """Check that onnxruntime agrees with PyTorch at batch sizes 1 and 3, and return the ONNX operators."""
    model = convert(network.eval().requires_grad_(False), one_input(input_size), opset=20)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        x = random_images(batch, *input_size)
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], network(x).numpy(), rtol=1e-4, atol=1e-5)
    return [node.op_type for node in model.graph.node]


class TestReference:
    """The reference implementations themselves."""

    @settings(max_examples=30, deadline=None)
    @given(cases())
    def test_implementations_agree(self, case):
        """Shift and add, sliding window and Toeplitz matrix compute the same operator."""
        expected = reference.shift_and_add(*case)
        for implementation in reference.IMPLEMENTATIONS:
            np.testing.assert_allclose(implementation(*case), expected, atol=1e-12)

    @pytest.mark.parametrize("implementation", reference.IMPLEMENTATIONS)
    @pytest.mark.parametrize(
        ("x", "w", "product"),
        [((2, -1), (1, 2), (2, 3, -2)), ((2, -1, 1), (1, 2, 1), (2, 3, 1, 1, 1))],
    )
    def test_worked_examples(self, implementation, x, w, product):
        """(2,-1)*(1,2) = 2, 4-1, -2 and (2,-1,1)*(1,2,1) = 2, 4-1, 2-2+1, -1+2, 1; the lecture notes are wrong."""
        actual = reference.full_convolution(np.array(x, float), np.array(w, float), implementation)
        assert actual.tolist() == list(product)

    @settings(max_examples=30, deadline=None)
    @given(cases())
    def test_agrees_with_numpy(self, case):
        """On one axis NumPy has both operators."""
        x, w = (values.reshape(-1, values.shape[-1])[0] for values in case)
        np.testing.assert_allclose(reference.full_convolution(x, w), np.convolve(x, w), atol=1e-12)
        np.testing.assert_allclose(reference.full_correlation(x, w), np.correlate(x, w, mode="full"), atol=1e-12)

    @settings(max_examples=30, deadline=None)
    @given(cases())
    def test_convolution_commutes(self, case):
        """x * w equals w * x; for the correlation, swapping the two mirrors the result."""
        x, w = case
        np.testing.assert_allclose(reference.full_convolution(x, w), reference.full_convolution(w, x), atol=1e-12)
        np.testing.assert_allclose(
            reference.full_correlation(x, w), np.flip(reference.full_correlation(w, x)), atol=1e-12
        )

    def test_cross_correlation_does_not_commute(self):
        """Swapping two inputs of two numbers changes the result."""
        x, w = np.array([2.0, -1.0]), np.array([1.0, 2.0])
        assert reference.full_correlation(x, w).tolist() == [4, 0, -1]
        assert reference.full_correlation(w, x).tolist() == [-1, 0, 4]


class TestConvolutions:
    """Conv, TrueConv and LocallyConnected layers against the reference."""

    @settings(max_examples=30, deadline=None)
    @given(cases())
    def test_a_library_convolution_is_cross_correlation(self, case):
        """nn.Conv1d and nn.Conv2d do not flip their kernel."""
        x, w = case
        actual = unbatched(with_weight(CONVS[x.ndim], w)(batched(x)))
        np.testing.assert_allclose(actual, reference.shift_and_add(x, w), atol=1e-12)

    @settings(max_examples=30, deadline=None)
    @given(cases())
    def test_true_convolution_flips_its_kernel(self, case):
        """TrueConv computes the textbook's convolution where the kernel lies inside the input."""
        x, w = case
        actual = unbatched(with_weight(TRUE_CONVS[x.ndim], w)(batched(x)))
        np.testing.assert_allclose(actual, reference.shift_and_add(x, np.flip(w)), atol=1e-12)

    @settings(max_examples=30, deadline=None)
    @given(cases())
    def test_true_convolution_commutes(self, case):
        """With full padding, input and kernel are interchangeable."""
        x, w = case
        padding = [k - 1 for k in reversed(w.shape) for _ in range(2)]
        other_padding = [k - 1 for k in reversed(x.shape) for _ in range(2)]
        first = with_weight(TRUE_CONVS[x.ndim], w)(nn.functional.pad(batched(x), padding))
        second = with_weight(TRUE_CONVS[x.ndim], x)(nn.functional.pad(batched(w), other_padding))
        torch.testing.assert_close(first, second, atol=1e-12, rtol=0)

    @settings(max_examples=30, deadline=None)
    @given(cases())
    def test_equal_weights_make_local_connection_a_convolution(self, case):
        """A locally connected layer with the same weights at every position equals a convolution."""
        x, w = case
        size = x.shape if x.ndim > 1 else len(x)
        local = LOCALS[x.ndim](1, 1, w.shape if w.ndim > 1 else len(w), input_size=size, bias=False).double()
        local.weight.data.copy_(torch.from_numpy(w.ravel().copy())[None, :, None].expand_as(local.weight))
        np.testing.assert_allclose(unbatched(local(batched(x))), reference.shift_and_add(x, w), atol=1e-12)


class TestLocallyConnected:
    """Locally connected layers."""

    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("padding", [0, 1])
    @pytest.mark.parametrize("dilation", [1, 2])
    def test_with_equal_weights_it_is_conv2d(self, stride, padding, dilation):
        """With equal weights the layer equals Conv2d, for several channels, a bias, stride, padding and dilation."""
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        conv = nn.Conv2d(2, 3, 3, **options)
        local = LocallyConnected2d(2, 3, 3, input_size=(9, 7), **options)
        local.weight.data.copy_(conv.weight.flatten(1).T.expand_as(local.weight))
        local.bias.data.copy_(conv.bias[:, None, None].expand_as(local.bias))
        x = random_images(2, 2, 9, 7)
        torch.testing.assert_close(local(x), conv(x))

    def test_each_position_has_its_own_weights(self):
        """Changing one position's weights changes only that position's output."""
        local, x = LocallyConnected1d(1, 2, 3, input_size=6), random_images(1, 1, 6)
        before = local(x).detach()
        local.weight.data[2] += 1
        changed = (local(x) != before).any(dim=1)[0]
        assert changed.tolist() == [False, False, True, False]

    def test_parameters_are_those_of_the_notes(self):
        """1x8x8 to 8 channels with 3x3 windows: 64 positions * (9 weights + 1 bias) * 8 channels = 5,120."""
        local = LocallyConnected2d(1, 8, 3, input_size=(8, 8), padding=1)
        assert sum(p.numel() for p in local.parameters()) == 64 * (9 + 1) * 8 == 5_120

    @pytest.mark.parametrize(
        ("layer", "input_size"),
        [
            (LocallyConnected1d(2, 3, 3, input_size=8, padding=1), (2, 8)),
            (LocallyConnected2d(2, 3, 3, input_size=(7, 6), stride=(2, 1)), (2, 7, 6)),
        ],
        ids=["1d", "2d"],
    )
    def test_exports_with_a_dynamic_batch(self, layer, input_size):
        """The ONNX graph has one MatMul and computes no shapes at run time."""
        op_types = exported_op_types(layer, *input_size)
        assert (op_types.count("MatMul"), "Shape" in op_types) == (1, False)

    def test_state_dict_has_only_parameters(self):
        """The gathering index is not stored."""
        assert list(LocallyConnected1d(1, 2, 3, input_size=6).state_dict()) == ["weight", "bias"]

    def test_another_size_is_rejected(self):
        """The message has the expected and the actual size."""
        local = LocallyConnected2d(1, 2, 3, input_size=(8, 8))
        with pytest.raises(SettingsError, match=r"built for inputs of shape \(1, 8, 8\) .*; got \(1, 9, 8\)"):
            local(torch.zeros(1, 1, 9, 8))


class TestTrueConv:
    """Export and training of the flipped kernel."""

    @pytest.mark.parametrize(
        ("layer", "plain", "input_size"),
        [
            (TrueConv1d(2, 4, 3, padding=1, groups=2), nn.Conv1d, (2, 8)),
            (TrueConv2d(64, 128, (3, 2), stride=2, dilation=2, bias=False), nn.Conv2d, (64, 9, 8)),
            (TrueConv2d(1, 2, 3, padding="same", padding_mode="reflect"), nn.Conv2d, (1, 6, 6)),
        ],
        ids=["1d", "2d", "reflect"],
    )
    def test_fuses_to_an_equivalent_plain_layer(self, layer, plain, input_size):
        """timm's reparameterize_model, which every export calls, replaces it by an nn.Conv1d or nn.Conv2d."""
        network, x = nn.Sequential(layer).eval(), random_images(2, *input_size)
        fused = reparameterize_model(network)
        assert type(fused[0]) is plain
        assert not fused[0].training
        assert torch.equal(fused(x), network(x))

    def test_exports_as_one_plain_conv(self):
        """The ONNX graph has one Conv and no flip of the kernel."""
        layer = TrueConv2d(64, 128, 3)
        assert exported_op_types(reparameterize_model(nn.Sequential(layer)), 64, 6, 6) == ["Conv"]

    def test_flips_its_own_gradient_back(self):
        """The gradient of `weight` is that of the plain layer's weight, flipped."""
        true, plain = TrueConv2d(1, 1, 3), nn.Conv2d(1, 1, 3)
        plain.load_state_dict({**true.state_dict(), "weight": true.weight.flip(2, 3)})
        x = random_images(1, 1, 5, 6)
        true(x).square().sum().backward()
        plain(x).square().sum().backward()
        torch.testing.assert_close(true.weight.grad, plain.weight.grad.flip(2, 3))


class TestBlurPool:
    """Binomial smoothing before subsampling."""

    def test_weights_are_binomial_coefficients(self):
        """A pixel of 16 spreads as 1 2 1 on both axes."""
        image = torch.zeros(1, 1, 5, 5)
        image[0, 0, 2, 2] = 16
        assert BlurPool2d(1, stride=1)(image)[0, 0, 1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]

    def test_keeps_a_constant_image(self):
        """Reflecting padding keeps the edges constant too."""
        image = torch.full((2, 3, 7, 6), 5.0)
        assert BlurPool2d(3, kernel_size=5)(image).tolist() == torch.full((2, 3, 4, 3), 5.0).tolist()

    def test_moves_less_than_a_max_pool_when_the_image_shifts(self):
        """A shift of one pixel changes its output less, relative to the output's norm."""
        image = random_images(1, 1, 32, 32).abs()
        moved = image.roll(1, dims=3)

        def change(pool):
            return float((pool(moved) - pool(image))[..., 2:-2].norm() / pool(image)[..., 2:-2].norm())

        assert change(BlurPool2d(1)) < 0.75 * change(nn.MaxPool2d(2))

    def test_has_no_parameters(self):
        """The state dict is empty too."""
        pool = BlurPool2d(4)
        assert (list(pool.parameters()), pool.state_dict()) == ([], {})

    def test_exports_with_a_dynamic_batch(self):
        """The ONNX graph ends in a Pad and a Conv."""
        assert exported_op_types(BlurPool2d(3), 3, 8, 8)[-2:] == ["Pad", "Conv"]

    @pytest.mark.parametrize(("kernel_size", "stride"), [(2, 2), (0, 2), (3, 0)])
    def test_rejects_even_kernels_and_zero_strides(self, kernel_size, stride):
        """A kernel needs a centre element, a stride at least 1."""
        with pytest.raises(SettingsError, match="odd kernel_size and a stride of 1 or more"):
            BlurPool2d(1, kernel_size, stride)


class TestWindows:
    """Padding by name, and numbers of positions."""

    @pytest.mark.parametrize(
        ("padding", "kernel_size", "dilation", "expected"),
        [("valid", 5, 1, 0), ("same", 5, 1, 2), ("same", 3, 2, 2), ("same", 1, 1, 0), ("same", 2, 2, 1), (4, 3, 1, 4)],
    )
    def test_padding_is_resolved(self, padding, kernel_size, dilation, expected):
        """Padding "same" adds half of the effective kernel size minus one."""
        assert resolve_padding(padding, kernel_size, dilation=dilation) == expected

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("same", 4), "'same' requires an odd window, .*; got 4: use a number instead"),
            (("same", 3, 2), "'same' requires stride 1; got 2"),
            (("full", 3), "padding must be 'valid', 'same' or an integer of at least 0; got 'full'"),
            ((-1, 3), "an integer of at least 0; got -1"),
            (("valid", 0), "kernel_size must be 1 or more; got 0"),
        ],
    )
    def test_impossible_padding_is_rejected(self, arguments, message):
        """Each message has the expected and the actual value."""
        with pytest.raises(SettingsError, match=message):
            resolve_padding(*arguments)

    @example(1, 1, 5, 2, 1)
    @settings(max_examples=200, deadline=None)
    @given(*[st.integers(1, 20)], *[st.integers(1, 5)] * 2, st.integers(0, 3), st.integers(1, 3))
    def test_counts_as_pytorch_or_reports_uncovered_data(self, length, kernel_size, stride, padding, dilation):
        """The count equals the length of PyTorch's output; if it is rejected, the last elements affect no output."""
        if length + 2 * padding < dilation * (kernel_size - 1) + 1:
            with pytest.raises(SettingsError, match=f"does not fit a length of {length}; it requires"):
                count_windows(length, kernel_size, stride, padding, dilation)
            return
        conv = nn.Conv1d(1, 1, kernel_size, stride, padding, dilation, bias=False)
        nn.init.ones_(conv.weight)
        x = torch.zeros(1, 1, length, requires_grad=True)
        y = conv(x)
        y.sum().backward()
        uncovered = min(length, (length + 2 * padding - dilation * (kernel_size - 1) - 1) % stride - padding)
        if uncovered > 0:
            assert x.grad[0, 0, length - uncovered :].tolist() == [0] * uncovered
            with pytest.raises(SettingsError, match=f"does not cover the last {uncovered} of {length} elements"):
                count_windows(length, kernel_size, stride, padding, dilation)
        else:
            assert count_windows(length, kernel_size, stride, padding, dilation) == y.shape[2]
