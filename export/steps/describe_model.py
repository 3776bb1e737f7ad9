"""Step 4: from PyTorch's results to the model's signature and the files that its versions share."""

from export.artifact import config_pbtxt, repository
from export.interface.signature import signature_of
from export.steps.stages import Described, Reference


def describe_model(context: Reference) -> Described:
    """Derive names, types and shapes of the model's tensors, and config.pbtxt and labels.txt from them.

    Reads: `interface`, `runs`, the labels of `source`, and `settings`.
    Adds: `signature` and `shared_files`.
    Ensures: the server supports all tensors; existing versions in the repository have the same shared files.
    Raises: UnsupportedNetworkError, RepositoryConflictError.
    """
    settings = context.settings
    outputs = [runs.float32.outputs for runs in context.runs]
    signature = signature_of(context.interface, outputs, context.source.labels)
    shared_files = config_pbtxt.shared_files(settings, signature)
    repository.require_identical_shared_files(settings.to / settings.name, shared_files)
    return Described(**vars(context), signature=signature, shared_files=shared_files)
