"""TLS as a client: the receiver's certificate is always checked."""

import ssl

from ledger.sinks.config import SinkConfig
from ledger.sinks.receiver import RetryError


def client_context(config: SinkConfig) -> ssl.SSLContext:
    """By the system's certificates or those of `ca_file`. Raises: RetryError for unfit files."""
    try:
        context = ssl.create_default_context(cafile=config.ca_file or None)
        if config.client_cert:
            context.load_cert_chain(config.client_cert, config.client_key)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(filter(None, (config.ca_file, config.client_cert, config.client_key)))
        raise RetryError(f"{files}: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
