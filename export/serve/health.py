"""Ask the server on this machine whether it is ready, as the image's HEALTHCHECK does: ``python -I serve/health.py``.

A file of its own, run by its path, as importing the package around it takes longer than an answer may.
"""

from __future__ import annotations

import http.client
import ssl
import sys

SECONDS = 2


def is_ready(port: int) -> bool:
    """Return whether the server says that it is ready. It may speak TLS or not, which is not known here.

    Its certificate is made out to another name than 127.0.0.1, so it is not looked at; nothing secret is sent.
    """
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    for connection in (
        http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS),
        http.client.HTTPSConnection("127.0.0.1", port, timeout=SECONDS, context=unverified),
    ):
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            continue
        finally:
            connection.close()
    return False


if __name__ == "__main__":
    sys.exit(0 if is_ready(int(sys.argv[1])) else 1)
