"""The files that all versions of a model share: labels.txt, and a config.pbtxt that an unmodified Triton accepts."""

import json
from typing import cast

from google.protobuf import text_format

from export.artifact.metadata import compact_json
from export.errors import UnsupportedNetworkError
from export.interface.signature import Signature
from export.settings import ExportSettings
from protos import inference, manifest
from protos.files import CONFIG, LABELS, MODEL
from protos.keys import BACKEND, LABELS_KEY, MULTI_LABEL, PREPROCESSING_KEY, TASK_KEY
from protos.labels import labels_text, unwritable_label


def shared_files(settings: ExportSettings, signature: Signature) -> dict[str, bytes]:
    """Return the contents of the shared files by file name. Raises: UnsupportedNetworkError."""
    _check_labels(signature)
    files = {CONFIG: config_text(settings, signature).encode()}
    return {**files, LABELS: labels_text(signature.labels).encode()} if signature.labels else files


def config_text(settings: ExportSettings, signature: Signature) -> str:
    """Return the text of config.pbtxt. Labels and preprocessing are parameters, so that clients can request them."""
    config = inference.ModelConfig(
        name=settings.name,
        backend=BACKEND,
        max_batch_size=settings.max_batch_size,
        input=[
            inference.ModelInput(name=tensor.name, data_type=_datatype(tensor), dims=tensor.shape[1:])
            for tensor in signature.inputs
        ],
        output=[
            inference.ModelOutput(
                name=tensor.name,
                data_type=_datatype(tensor),
                dims=tensor.shape[1:],
                label_filename=LABELS if signature.labels else "",
            )
            for tensor in signature.outputs
        ],
        dynamic_batching=inference.ModelDynamicBatching(max_queue_delay_microseconds=settings.max_queue_delay_us),
        default_model_filename=MODEL,
    )
    if signature.preprocessing:
        config.parameters[PREPROCESSING_KEY].string_value = compact_json(signature.preprocessing)
    if signature.labels:
        config.parameters[LABELS_KEY].string_value = json.dumps(list(signature.labels), ensure_ascii=False)
    if signature.multi_label:
        config.parameters[TASK_KEY].string_value = MULTI_LABEL
    return text_format.MessageToString(config, as_utf8=True)


def _check_labels(signature: Signature) -> None:
    """Reject labels that are not one per class, or that labels.txt cannot hold. Raises: UnsupportedNetworkError."""
    labels = signature.labels
    for output in signature.outputs if labels else ():
        if list(output.shape[1:]) != [len(labels)]:
            classes = f"{output.shape[1]} classes" if len(output.shape) == 2 else f"an output of {list(output.shape)}"
            raise UnsupportedNetworkError(
                f"got {len(labels)} labels for a network with {classes}: provide one label per class."
            )
    unwritable = unwritable_label(labels)
    if unwritable is not None:
        raise UnsupportedNetworkError(
            f"labels.txt cannot hold the label {unwritable!r}: it has one label per line, in UTF-8. Remove line feeds, "
            "a carriage return at the end, a byte order mark at the start, and surrogates."
        )


def _datatype(tensor: manifest.Tensor) -> inference.DataType:
    return cast("inference.DataType", inference.DataType.Value(f"TYPE_{tensor.datatype}"))
