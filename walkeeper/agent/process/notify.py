"""systemd's notifications (sd_notify(3)). Never fatal, and silent where there is no systemd."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

_SEND_SECONDS = 1.0
"""Seconds for one message, where systemd does not read."""


class Notifier:
    """Talks to ``$NOTIFY_SOCKET``. ``watchdog_seconds`` is how often systemd wants a sign of life; None for never."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_seconds = _watchdog(environ)

    def ready(self) -> None:
        """It works; also after a reload."""
        self._send("READY=1")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """A new configuration is taken up. The time is what ``Type=notify-reload`` wants."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
                link.settimeout(_SEND_SECONDS)
                link.sendto(message.encode(), self._address)
        except OSError:
            return


def _watchdog(environ: Mapping[str, str]) -> float | None:
    """As sd_watchdog_enabled(3): the variables may be meant for another process, which passed them on."""
    usec = environ.get("WATCHDOG_USEC", "")
    meant_for = environ.get("WATCHDOG_PID", "")
    if not (usec.isascii() and usec.isdecimal()) or int(usec) == 0 or meant_for not in ("", str(os.getpid())):
        return None
    return int(usec) / 1_000_000
