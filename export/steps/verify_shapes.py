"""Step 9: from a mapped model to one whose shapes are verified."""

from export.errors import dynamic_size_errors
from export.steps.stages import Mapped, ShapesVerified
from export.verify.export_flags import export_flag_errors
from export.verify.shapes import check_shapes


def verify_shapes(context: Mapped) -> ShapesVerified:
    """Compare the shapes of all values between independent witnesses.

    Reads: `source`, `network`, `interface`, `model` and `layer_map`.
    Adds: `shapes`.
    Changes: `layer_map`, into which the witnesses and the receptive field of each layer are written.
    Ensures: no two witnesses disagree.
    Raises: ShapeError, ConversionError.
    """
    interface = context.interface
    arguments = interface.arguments(interface.noise(1))
    with dynamic_size_errors(context.settings.dynamic_size), export_flag_errors(context.source.network, arguments):
        shapes = check_shapes(context.model, context.network, context.layer_map, interface)
    return ShapesVerified(**vars(context), shapes=shapes)
