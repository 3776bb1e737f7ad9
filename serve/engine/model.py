"""One loaded version of a model, with its queue and worker threads."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Self

from protos import inference
from serve.batching.batcher import Batcher
from serve.batching.statistics import Statistics
from serve.devices.memory import check_fits
from serve.engine import batch_probe, classification, validation
from serve.engine.session import Session
from serve.engine.tap_sessions import TapSessions
from serve.engine.warmup import buckets, run_configured_warmup, warm_up
from serve.errors import UnavailableError
from serve.repository import model_config
from serve.repository.layer_index import read_layers
from serve.repository.repository import ModelFiles, Version
from serve.settings import ServerSettings
from serve.wire import datatypes
from serve.wire.tensors import Array, Request, Response, Tensor

log = logging.getLogger(__name__)
NO_CONFIG = inference.ModelConfig()
KINDS = {"cuda": inference.ModelInstanceGroup.KIND_GPU, "cpu": inference.ModelInstanceGroup.KIND_CPU}


class Model:
    """Runs requests for one version.

    Attributes:
        name: The model's name.
        version: The version's number.
        config: The configuration, completed from the graph.
        signature: The inputs and outputs that `config` declares.
        layers: The layers that can be requested as outputs.
        statistics: Counts and durations since the version was loaded.
    """

    def __init__(
        self, files: ModelFiles, version: Version, session: Session, bare_max_batch_size: int, tap_sessions: int
    ) -> None:
        self.name, self.version = files.name, version.number
        graph = (session.inputs, session.outputs)
        self.config = model_config.complete(files.config, files.name, *graph, bare_max_batch_size)
        count = model_config.instances(self.config)
        del self.config.instance_group[:]
        self.config.instance_group.add(name=files.name, count=count, kind=KINDS[session.device])
        self.signature = model_config.signature(self.config)
        self.layers = read_layers(version.path, session.metadata)
        self._labels = files.labels
        self._graph_outputs = frozenset(spec.name for spec in session.outputs)
        self._tap_sessions = TapSessions(version.path, session, tap_sessions)
        self._buckets = buckets(session.device, self.signature.max_batch_size, model_config.preferred(self.config))
        self._batcher: Batcher[Session] | None = None
        self._in_flight, self._idle = 0, asyncio.Event()
        self.statistics = Statistics()

    @property
    def queue_length(self) -> int:
        """Number of queued requests."""
        return self._batcher.queue_length if self._batcher else 0

    @classmethod
    def load(cls, files: ModelFiles, version: Version, settings: ServerSettings) -> Self:
        """Load and warm up one version.

        Raises:
            BadModelError: The version cannot be served.
            ProviderError: The provider is cuda, and CUDA cannot run the model.
        """
        check_fits(version.path)
        session = Session.open(version.path, settings.provider, model_config.instances(files.config or NO_CONFIG))
        label = f"{files.name}, version {version.number},"
        max_batch_size = batch_probe.max_batch_size(session, files.config, settings.max_batch_size, label)
        model = cls(files, version, session, max_batch_size, settings.tap_sessions)
        warm_up(session, model.signature, model._buckets, label)
        run_configured_warmup(session, model.config, model.signature)
        log.info("%s, version %d, is loaded on %s", model.name, model.version, session.device)
        return model

    def start(self) -> None:
        """Start the worker threads; from then on, requests are accepted on the running event loop."""
        settings = replace(model_config.batch_settings(self.config), buckets=self._buckets)
        self._batcher = Batcher(self._run, settings, self.statistics, f"{self.name}/{self.version}")

    async def infer(self, request: Request) -> Response:
        """Run a request on this version, even if a newer version replaces it in the meantime.

        Raises:
            InvalidRequestError: The request does not match the model's signature.
            UnknownOutputError: The model has no output or layer of a requested name.
            InferenceError: The runtime failed on the request.
        """
        self._in_flight += 1
        try:
            return await self._respond(request)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def _respond(self, request: Request) -> Response:
        arrays = validation.validated_inputs(request, self.signature)
        values = validation.requested_values(request, self.signature, self.layers)
        class_counts = {name: count for name, count in request.classes.items() if count}
        for spec in self.signature.outputs:
            if spec.name in class_counts:
                classification.require_rankable(spec.name, spec.datatype)
        results = await self._compute(request, arrays, values)
        tensors = [_tensor(name, results[value]) for name, value in values.items()]
        outputs = tuple(
            self._classify(tensor, class_counts[tensor.name]) if tensor.name in class_counts else tensor
            for tensor in tensors
        )
        return Response(self.name, str(self.version), request.id, outputs)

    async def close(self) -> None:
        """Finish all in-flight requests, then end the threads."""
        while self._in_flight:
            self._idle.clear()
            await self._idle.wait()
        if self._batcher:
            await self._batcher.close()

    def _classify(self, tensor: Tensor, count: int) -> Tensor:
        labels = self._labels.get(tensor.name, ())
        return classification.classify(tensor, count, labels, batched=self.signature.max_batch_size > 0)

    async def _compute(
        self, request: Request, arrays: Mapping[str, Array], values: Mapping[str, str]
    ) -> Mapping[str, Array]:
        """Return the arrays of the requested graph values; `values` is by output name, the result by value."""
        if self._batcher is None:
            raise UnavailableError(f"model '{self.name}' does not accept requests yet.")
        layers = [name for name, value in values.items() if value not in self._graph_outputs]
        max_batch_size = self.signature.max_batch_size
        return await self._batcher.submit(
            arrays,
            rows=len(next(iter(arrays.values()))) if max_batch_size else 1,
            plan=await self._tap_sessions.session(frozenset(values[name] for name in layers)),
            priority=request.priority,
            timeout_us=request.timeout_us,
            alone=not max_batch_size or not all(map(self.layers.is_batched, layers)),
        )

    @staticmethod
    def _run(arrays: Mapping[str, Array], session: Session) -> Mapping[str, Array]:
        """Run one batch, in one of the model's threads."""
        return session.run(arrays, [spec.name for spec in session.outputs])


def _tensor(name: str, array: Array) -> Tensor:
    return Tensor(name, datatypes.BY_NUMPY[array.dtype].name, array)
