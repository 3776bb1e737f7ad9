"""The files that all versions of a model share: config.pbtxt, which an unmodified Triton accepts, and labels.txt."""

import json
from typing import cast

from google.protobuf import text_format

from export.artifact.metadata import compact_json
from export.errors import UnsupportedNetworkError
from export.interface.signature import Contract
from export.names import BACKEND, LABELS_KEY, MULTI_LABEL, PREPROCESSING_KEY, TASK_KEY
from export.names import CONFIG as CONFIG
from export.names import LABELS as LABELS
from export.settings import ExportSettings
from protos import inference, manifest


def shared_files(settings: ExportSettings, contract: Contract) -> dict[str, bytes]:
    """Return what stands beside the versions, by file name. Raises: UnsupportedNetworkError."""
    labels = labels_text(contract)
    config = {CONFIG: config_text(settings, contract).encode()}
    return {**config, LABELS: labels.encode()} if labels else config


def config_text(settings: ExportSettings, contract: Contract) -> str:
    """Return config.pbtxt. Labels and preprocessing ride along as parameters, so that any client can ask for them."""
    config = inference.ModelConfig(
        name=settings.name,
        backend=BACKEND,
        max_batch_size=settings.max_batch_size,
        input=[
            inference.ModelInput(name=each.name, data_type=_datatype(each), dims=each.shape[1:])
            for each in contract.inputs
        ],
        output=[
            inference.ModelOutput(
                name=each.name,
                data_type=_datatype(each),
                dims=each.shape[1:],
                label_filename=LABELS if contract.labels else "",
            )
            for each in contract.outputs
        ],
        dynamic_batching=inference.ModelDynamicBatching(max_queue_delay_microseconds=settings.max_queue_delay_us),
        default_model_filename="model.onnx",
    )
    if contract.preprocessing:
        config.parameters[PREPROCESSING_KEY].string_value = compact_json(contract.preprocessing)
    if contract.labels:
        config.parameters[LABELS_KEY].string_value = json.dumps(list(contract.labels), ensure_ascii=False)
    if contract.multi_label:
        config.parameters[TASK_KEY].string_value = MULTI_LABEL
    return text_format.MessageToString(config, as_utf8=True)


def labels_text(contract: Contract) -> str:
    """Return labels.txt, one label a line, by class index. Raises: UnsupportedNetworkError."""
    labels = contract.labels
    for output in contract.outputs if labels else ():
        if list(output.shape[1:]) != [len(labels)]:
            classes = f"{output.shape[1]} classes" if len(output.shape) == 2 else f"an output of {list(output.shape)}"
            raise UnsupportedNetworkError(
                f"the labels are {len(labels)}, and the network has {classes}: give one for each class."
            )
    broken = [label for label in labels if label.splitlines() not in ([], [label])]  # Unicode has eight more of them
    if broken:
        raise UnsupportedNetworkError(
            f"the label {broken[0]!r} holds a line break, but labels.txt has one label a line."
        )
    return "".join(f"{label}\n" for label in labels)


def _datatype(tensor: manifest.Tensor) -> inference.DataType:
    return cast("inference.DataType", inference.DataType.Value(f"TYPE_{tensor.datatype}"))
