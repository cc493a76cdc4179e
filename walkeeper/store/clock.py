"""What time it is at a store that speaks HTTP: from the Date of any answer, also of a refusal."""

from __future__ import annotations

import http.client
import ssl
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlparse

from walkeeper.errors import StoreUnavailable
from walkeeper.lib import clock


def ahead(endpoint: str, ca_file: Path | None, timeout: float) -> float:
    """Seconds, negative where it is behind ours. Raises StoreUnavailable."""
    url = urlparse(endpoint)
    host = url.hostname or ""
    authority = None if ca_file is None else str(ca_file)
    try:
        connection = (
            http.client.HTTPSConnection(
                host, url.port, timeout=timeout, context=ssl.create_default_context(cafile=authority)
            )
            if url.scheme == "https"
            else http.client.HTTPConnection(host, url.port, timeout=timeout)
        )
        try:
            before = clock.wall_seconds()
            connection.request("HEAD", "/")
            date = connection.getresponse().getheader("Date")
            after = clock.wall_seconds()
        finally:
            connection.close()
        if date is None:
            raise StoreUnavailable("the store's answers have no Date")
        moment = parsedate_to_datetime(date).timestamp()
    except (OSError, http.client.HTTPException, ValueError) as problem:
        text = f"the store did not tell the time: {problem or type(problem).__name__}"
        raise StoreUnavailable(text) from problem
    return moment - after if moment > after else min(0.0, moment + 1 - before)  # Date is of a whole second
