"""Filter for gRPC's own log records."""

import logging

LOGGER = "grpc._cython.cygrpc"
SEND_ERROR = "ExecuteBatchError"  # raised by gRPC if the client disconnects before its response is sent

log = logging.getLogger(__name__)


class DisconnectFilter(logging.Filter):
    """Replaces gRPC's traceback for a disconnected client by one line.

    gRPC sends a handler's response after the handler has returned, so no handler can catch this error.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether gRPC's record is logged unchanged."""
        kind = record.exc_info[0] if record.exc_info else None
        if kind is None or kind.__name__ != SEND_ERROR:
            return True
        log.info("a client disconnected before its response was sent")
        return False


DISCONNECT_FILTER = DisconnectFilter()


def install() -> None:
    """Add the filter to gRPC's logger; repeated calls have no effect."""
    logging.getLogger(LOGGER).addFilter(DISCONNECT_FILTER)
