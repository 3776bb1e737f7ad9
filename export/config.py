"""The files that all versions of a model share: config.pbtxt, which an unmodified Triton accepts, and labels.txt."""

import json
from collections.abc import Sequence

from google.protobuf import text_format

from export.convert import LOGITS
from export.errors import UnfitNetError
from export.image_io import IMAGE, PROBABILITIES
from export.keys import CONFIG as CONFIG
from export.keys import LABELS as LABELS
from export.keys import LABELS_KEY, PREPROCESSING_KEY
from export.metadata import compact_json
from export.settings import ExportSettings
from protos import inference, manifest


def config_text(
    settings: ExportSettings, preprocessing: manifest.Preprocessing, labels: Sequence[str], classes: int
) -> str:
    """Return config.pbtxt. Labels and preprocessing ride along as parameters, so that any client can ask for them."""
    size = [preprocessing.height, preprocessing.width, preprocessing.channels]
    config = inference.ModelConfig(
        name=settings.name,
        backend="onnxruntime",
        max_batch_size=settings.max_batch_size,
        input=[inference.ModelInput(name=IMAGE, data_type=inference.TYPE_UINT8, dims=size)],
        output=[_output(name, classes, labels) for name in (LOGITS, PROBABILITIES)],
        dynamic_batching=inference.ModelDynamicBatching(max_queue_delay_microseconds=settings.max_queue_delay_us),
        default_model_filename="model.onnx",
    )
    config.parameters[PREPROCESSING_KEY].string_value = compact_json(preprocessing)
    if labels:
        config.parameters[LABELS_KEY].string_value = json.dumps(list(labels), ensure_ascii=False)
    return text_format.MessageToString(config, as_utf8=True)


def labels_text(labels: Sequence[str], classes: int) -> str:
    """Return labels.txt, one label a line, by class index. Raises: UnfitNetError."""
    if labels and len(labels) != classes:
        raise UnfitNetError(
            f"there are {len(labels)} labels for a net with {classes} classes: give one for each class."
        )
    broken = [label for label in labels if label.splitlines() not in ([], [label])]  # Unicode has eight more of them
    if broken:
        raise UnfitNetError(f"the label {broken[0]!r} holds a line break, but labels.txt has one label a line.")
    return "".join(f"{label}\n" for label in labels)


def _output(name: str, classes: int, labels: Sequence[str]) -> inference.ModelOutput:
    label_filename = LABELS if labels else ""
    return inference.ModelOutput(
        name=name, data_type=inference.TYPE_FP32, dims=[classes], label_filename=label_filename
    )
