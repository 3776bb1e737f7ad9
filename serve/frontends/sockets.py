"""Sockets that listen, and why one cannot."""

import errno
import socket

from serve.errors import PortInUseError, SettingsError


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; a `port` of 0 takes a free one.

    Raises:
        PortInUseError: somebody else listens there.
        SettingsError: this machine does not have that address.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "that is no host name"
        raise SettingsError(f"cannot listen on {host}:{port}: {reason}.") from error
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen()
    except OSError as error:
        taken.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"port {port} on {host} is in use: stop what listens there, or give another."
            ) from error
        raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror}.") from error
    return taken
