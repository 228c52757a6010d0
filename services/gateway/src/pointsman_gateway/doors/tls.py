"""The certificate of the HTTP door, read again when its files change."""

import logging
import ssl

from pointsman_servicekit.tls import ServerTls, TlsError

log = logging.getLogger(__name__)


class FollowedTls:
    """A context for handshakes; who serves calls `follow` now and then.

    What clients must be vouched for by stays what it was at the start.
    """

    def __init__(self, tls: ServerTls) -> None:
        """Raises TlsError."""
        self._tls = tls
        self._stamp = tls.stamp()
        self.context: ssl.SSLContext = tls.context()

    def follow(self) -> None:
        """A changed certificate is shown from now on; one that cannot be used is not, and the log says why."""
        now = self._tls.stamp()
        if now == self._stamp:
            return
        self._stamp = now
        try:
            self._tls.context()  # as a whole first: what does not fit must not get half-way into ours
            self._tls.load_into(self.context)
        except TlsError as error:
            log.error("the changed certificate is not used, the one before goes on: %s", error)
        else:
            log.info("the certificate %s was read anew", self._tls.certificate)
