"""SMTP: a mail for each batch, which the server has taken when it says 250.

Meant for few events, such as fired alarms: `query = "action:ledger.alarm.fired"`. Always encrypted:
`smtps://` from the start, `smtp://` by STARTTLS; unencrypted to this machine only.
"""

import asyncio
import hashlib
import io
import smtplib
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from ledger.follow.position import with_answer
from ledger.runtime.network_errors import explain_network_error
from ledger.sinks.config import SinkConfig
from ledger.sinks.receiver import BatchRefusedError, RetryError, Sent
from ledger.sinks.record import Record
from ledger.sinks.tls import client_context
from ledger_client.messages import check_loopback
from ledger_client.runtime.clock import unix_s
from ledger_core.tlog.text import printable

SUBJECT_CHARS_MAX: Final = 120
PERMANENT: Final = 500
TOO_LARGE: Final = 552
ANSWERS_BYTES_MAX: Final = 1 << 20
"""Of all answers of one connection."""

AUTHENTICATION: Final = frozenset({530, 534, 535, 538})


class _Answers(io.RawIOBase):
    """Reads answers of a server within limits of bytes and time. smtplib limits a line alone."""

    def __init__(self, connection: socket.socket, *, end_s: float) -> None:
        self._connection: Final = connection
        self._end_s: Final = end_s
        self._left = ANSWERS_BYTES_MAX

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the server has not answered in time")
        if self._left <= 0:
            raise ConnectionError(f"the server's answers exceed {ANSWERS_BYTES_MAX} bytes")
        self._connection.settimeout(left_s)
        count = self._connection.recv_into(buffer)
        self._left -= count
        return count


class _Connection(smtplib.SMTP):
    """A connection that `timeout` limits as a whole."""

    def __init__(self, host: str, port: int, *, timeout: float, **options: Any) -> None:
        self._end_s: Final = time.monotonic() + timeout
        super().__init__(host, port, timeout=timeout, **options)

    def getreply(self) -> tuple[int, bytes]:
        """The next answer of the server."""
        if self.file is None and self.sock is not None:
            self.file = io.BufferedReader(_Answers(self.sock, end_s=self._end_s))
        return super().getreply()


class _TlsConnection(_Connection, smtplib.SMTP_SSL):
    """The same, encrypted from its start."""


class MailReceiver:
    """Sends mails, each on a connection of its own."""

    def __init__(self, config: SinkConfig) -> None:
        self._config: Final = config

    async def send(self, records: Sequence[Record]) -> Sent:
        """Send one mail with all records. Raises: RetryError, BatchRefusedError."""
        mail = format_mail(records, self._config, sent_unix_s=unix_s())
        return await asyncio.to_thread(self._send, mail)

    async def close(self) -> None:
        """Do nothing: no connection is kept open."""

    def _send(self, mail: EmailMessage) -> Sent:
        config = self._config
        parts = urlsplit(config.url)
        host = parts.hostname or ""
        try:
            server = self._connect(host, parts.port, is_tls=parts.scheme == "smtps")
            try:
                if config.username:
                    server.login(config.username, config.secret())
                refused = server.send_message(mail, config.sender, list(config.to))
            finally:
                _hang_up(server)
        except smtplib.SMTPRecipientsRefused as error:
            raise RetryError(f"{host}: refused recipients: {len(error.recipients)}") from None
        except smtplib.SMTPResponseException as error:
            reason = with_answer(f"SMTP {error.smtp_code}", _text(error.smtp_error))
            # Servers that announce SIZE refuse a mail that is too large at its MAIL FROM.
            is_of_mail = isinstance(error, smtplib.SMTPDataError) or error.smtp_code == TOO_LARGE
            if error.smtp_code >= PERMANENT and is_of_mail:
                raise BatchRefusedError(reason) from None
            raise RetryError(f"{host}: {reason}") from None
        except (OSError, smtplib.SMTPException) as error:
            raise RetryError(f"{host}: {explain_network_error(error)}") from None
        if not refused:
            return Sent()
        # A mail that some have is not sent again: they would have it once more at each attempt.
        answers = [f"{name}: {code} {_text(text)}" for name, (code, text) in refused.items()]
        reason = f"{host}: {len(refused)} of {len(config.to)} recipients were refused"
        return Sent(warning=with_answer(reason, ", ".join(answers)))

    def _connect(self, host: str, port: int | None, *, is_tls: bool) -> smtplib.SMTP:
        timeout_s = self._config.timeout_s
        if is_tls:
            context = client_context(self._config)
            return _TlsConnection(host, port or 465, timeout=timeout_s, context=context)
        server = _Connection(host, port or 587, timeout=timeout_s)
        server.ehlo()
        if server.has_extn("starttls"):
            server.starttls(context=client_context(self._config))
            server.ehlo()
        elif not self._config.insecure:
            try:
                check_loopback(host, option="insecure = true")
            except ValueError:
                server.close()
                raise RetryError(f"{host} offers no STARTTLS: use smtps:// or insecure") from None
        return server


def _hang_up(server: smtplib.SMTP) -> None:
    """End a connection. Nothing that the server says to that takes back what it said to the mail.

    smtplib's own end of a `with` raises an error for each answer but 221, and the mail that the
    server has taken would be sent again, and again.
    """
    with suppress(OSError, smtplib.SMTPException):
        server.quit()
    server.close()


def format_mail(records: Sequence[Record], config: SinkConfig, *, sent_unix_s: int) -> EmailMessage:
    """The mail: what happened as its subject, then each record as indented JSON.

    The same records have the same Message-ID, by which a mailbox can drop what comes twice.
    """
    first = records[0].content().event
    more = f" and {len(records) - 1} more" if len(records) > 1 else ""
    name = f" {first.reason}" if first.reason else f" by {first.actor.id}"
    mail = EmailMessage()
    mail["Subject"] = (
        printable(f"[{records[0].origin}] {first.action}{name}")[:SUBJECT_CHARS_MAX] + more
    )
    leaf_hashes = "\n".join([records[0].origin, *(record.leaf_hash for record in records)])
    number = hashlib.sha256(leaf_hashes.encode()).hexdigest()[:40]
    domain = parseaddr(config.sender)[1].rpartition("@")[2]
    mail["Message-ID"] = f"<{number}@{printable(domain) or 'localhost'}>"
    mail["Date"] = formatdate(sent_unix_s)
    mail["Auto-Submitted"] = "auto-generated"
    mail["From"] = config.sender
    mail["To"] = ", ".join(config.to)
    texts = [msgspec.json.format(record.json, indent=2).decode() for record in records]
    mail.set_content("\n\n".join(texts))
    return mail


def _text(answer: bytes | str) -> str:
    return printable(answer.decode(errors="replace") if isinstance(answer, bytes) else answer)[:200]
