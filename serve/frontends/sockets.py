"""Opens listening sockets, and translates their errors."""

import errno
import socket

from serve.errors import PortInUseError, SettingsError


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; a `port` of 0 selects an unused port.

    Raises:
        PortInUseError: Another process listens on the port.
        SettingsError: This machine does not have the address.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "that is not a host name"
        raise SettingsError(f"cannot listen on {host}:{port}: {reason}.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"port {port} on {host} is in use: stop the process that listens there, or choose another port."
            ) from error
        raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror}.") from error
    return listener
