"""One loaded version of a model, with its queue and worker threads."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from protos import inference
from serve.batching.batcher import Batcher
from serve.batching.statistics import Statistics
from serve.devices.memory import check_fits
from serve.engine import batch_probe, classification, validation
from serve.engine.reply import Encoder
from serve.engine.session import Device, Session
from serve.engine.tap_sessions import TapSessions
from serve.engine.warmup import buckets, run_configured_warmup, warm_up
from serve.errors import UnavailableError
from serve.repository import model_config
from serve.repository.control_flow import may_loop
from serve.repository.layer_index import read_layers
from serve.repository.repository import ModelFiles, Version
from serve.repository.runtime_options import runtime_options
from serve.settings import ServerSettings
from serve.shared_memory.regions import Placement
from serve.wire.frames import FrameWriter
from serve.wire.tensors import Array, Request

log = logging.getLogger(__name__)
NO_CONFIG = inference.ModelConfig()
INLINE_LIMIT_NS: Mapping[Device, int] = {"cpu": 1_000_000, "cuda": 0}  # 1 ms: requests to other models wait that long
SINGLE_THREAD_NS = 1_000_000  # a run that takes 1 ms or less spends more on waking further threads than they save
BATCHES_AHEAD: Mapping[Device, int] = {"cpu": 0, "cuda": 1}  # stacked while the device runs the batch before
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
        del self.config.instance_group[:]
        self.config.instance_group.add(name=files.name, count=session.instances, kind=KINDS[session.device])
        self.signature = model_config.signature(self.config)
        self.layers = read_layers(version.path, session.metadata)
        self._labels, self._device = files.labels, session.device
        self._may_loop = may_loop(version.path)
        self._graph_outputs = frozenset(spec.name for spec in session.outputs)
        self._tap_sessions = TapSessions(version.path, session, tap_sessions)
        self._buckets = buckets(session.device, self.signature.max_batch_size, model_config.preferred(self.config))
        self._batcher: Batcher[Session] | None = None
        self._writer = FrameWriter(self.name, str(self.version))
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
        config = files.config or NO_CONFIG
        options = runtime_options(config, model_config.instances(config))
        session = Session.open(version.path, settings.provider, options)
        label = f"{files.name}, version {version.number},"
        max_batch_size = batch_probe.max_batch_size(session, files.config, settings.max_batch_size, label)
        model = cls(files, version, session, max_batch_size, settings.tap_sessions)
        run_ns = warm_up(session, model.signature, model._buckets, label)
        if session.has_chosen_threads and run_ns is not None and run_ns < SINGLE_THREAD_NS:
            session = session.with_one_thread()
            model = cls(files, version, session, max_batch_size, settings.tap_sessions)
            warm_up(session, model.signature, model._buckets, label)
        run_configured_warmup(session, model.config, model.signature)
        log.info("%s, version %d, is loaded on %s", model.name, model.version, session.device)
        return model

    def start(self) -> None:
        """Start the worker threads; from then on, requests are accepted."""
        settings = replace(
            model_config.batch_settings(self.config),
            buckets=self._buckets,
            inline_limit_ns=0 if self._may_loop else INLINE_LIMIT_NS[self._device],
            ahead=BATCHES_AHEAD[self._device],
        )
        self._batcher = Batcher(self._run, settings, self.statistics, f"{self.name}/{self.version}")

    def read(self, request: Request, placements: Mapping[str, Placement]) -> "ModelRequest":
        """Check a request against the model, and return what is needed to run it.

        Raises:
            InvalidRequestError: The request does not match the model's signature.
            UnknownOutputError: The model has no output or layer of a requested name.
        """
        arrays = validation.validated_inputs(request, self.signature)
        values = validation.requested_values(request, self.signature, self.layers)
        classes = {name: count for name, count in request.classes.items() if count}
        for spec in self.signature.outputs:
            if spec.name in classes:
                classification.require_rankable(spec.name, spec.datatype)
        layers = [name for name, value in values.items() if value not in self._graph_outputs]
        is_batched = self.signature.max_batch_size > 0
        encoder = Encoder(
            self._writer, values, classes=classes, labels=self._labels, placements=placements, is_batched=is_batched
        )
        return ModelRequest(
            inputs=arrays,
            rows=len(next(iter(arrays.values()))) if is_batched else 1,
            taps=frozenset(values[name] for name in layers),
            alone=not is_batched or not all(map(self.layers.is_batched, layers)),
            priority=request.priority,
            timeout_us=request.timeout_us,
            encoder=encoder,
        )

    def session(self, taps: frozenset[str]) -> Session | None:
        """Return the session that also returns the graph values `taps`; None if `build_session` must build it."""
        return self._tap_sessions.cached(taps)

    def build_session(self, taps: frozenset[str]) -> Session:
        """Build and return the session that also returns the graph values `taps`; may take seconds.

        Raises:
            BadModelError: onnxruntime cannot return these values.
        """
        return self._tap_sessions.build(taps)

    @property
    def batcher(self) -> Batcher[Session]:
        """The queues of the model. Raises: UnavailableError."""
        if self._batcher is None:
            raise UnavailableError(f"model '{self.name}' does not accept requests yet.")
        return self._batcher

    def close(self, timeout_s: float | None = None) -> bool:
        """Finish all queued requests, then end the threads; return False if that takes longer than `timeout_s`."""
        return self._batcher is None or self._batcher.close(timeout_s)

    @staticmethod
    def _run(arrays: Mapping[str, Array], session: Session) -> Mapping[str, Array]:
        """Run one batch."""
        return session.run(arrays, session.output_names)


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A request that was checked against its model.

    Attributes:
        inputs: Arrays by input name.
        rows: Size of the batch dimension; 1 if the model has none.
        taps: The graph values of the requested layers that are not among the model's outputs.
        alone: Whether it must be a batch of its own.
        priority: Priority level, 1 first; 0 is the model's default.
        timeout_us: Longest wait in the queue in microseconds; 0 is the model's default.
        encoder: Encodes its outputs.
    """

    inputs: Mapping[str, Array]
    rows: int
    taps: frozenset[str]
    alone: bool
    priority: int
    timeout_us: int
    encoder: Encoder
