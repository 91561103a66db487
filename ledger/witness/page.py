"""The page of a witness, for people: its name, its keys, and the logs that it cosigns.

It is one HTML document without scripts and without resources from elsewhere, made from `page.html`
and `page.css`. Every text on it that comes from a log or a key is escaped, and turns no writing
around.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from html import escape
from pathlib import Path
from string import Template
from typing import Final

from ledger.witness.known_log import KnownLog
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.cosignature import parse_verifier
from ledger_core.tlog.keys import MLDSA44_COSIGNATURE
from ledger_core.tlog.text import format_base64, printable
from ledger_core.tlog.witness import cosigned_at

LOGS_SHOWN_MAX: Final = 250
"""Reading them takes milliseconds, during which no other request is answered."""

_STYLE: Final = "\n" + Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
_PAGE: Final = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    f"style-src 'sha256-{format_base64(sha256(_STYLE.encode()).digest())}'"
)


def format_page(
    *,
    name: str,
    vkeys: Sequence[str],
    logs: Sequence[tuple[KnownLog, SignedCheckpoint | None]],
    logs_count: int,
) -> str:
    """Format the page. `logs` are those to show, of `logs_count` in all."""
    return _PAGE.substitute(
        title=escape(printable(name)),
        style=_STYLE,
        keys="".join(map(_key, vkeys)),
        logs=_logs(logs, logs_count),
    )


def _key(vkey: str) -> str:
    is_mldsa = parse_verifier(vkey).algorithm == MLDSA44_COSIGNATURE
    kind = "ML-DSA-44" if is_mldsa else "Ed25519"
    return f'<div class="card key"><b>{kind}</b><code>{escape(printable(vkey))}</code></div>\n'


def _logs(logs: Sequence[tuple[KnownLog, SignedCheckpoint | None]], logs_count: int) -> str:
    if not logs:
        return '<p class="none">No log is known here yet.</p>'
    rows = "".join(_row(log, head) for log, head in sorted(logs, key=lambda row: row[0].origin))
    more = "" if len(logs) == logs_count else f"<p>{len(logs)} of {logs_count} logs are shown.</p>"
    return f"""<div class="card logs" tabindex="0" role="region" aria-label="Logs">
<table>
<thead><tr><th scope="col">Origin</th><th scope="col" class="size">Size</th>
<th scope="col">Root hash</th><th scope="col">Cosigned</th></tr></thead>
<tbody>
{rows}</tbody>
</table>
</div>{more}"""


def _row(log: KnownLog, head: SignedCheckpoint | None) -> str:
    origin = escape(printable(log.origin))
    if head is None:
        return (
            f'<tr><th scope="row">{origin}</th>'
            '<td class="none" colspan="3">nothing cosigned yet</td></tr>\n'
        )
    checkpoint = head.checkpoint
    path = f"{sha256(log.origin.encode()).hexdigest()}/checkpoint"
    time = escape(_time(cosigned_at(head)))
    return (
        f'<tr><th scope="row"><a href="{path}">{origin}</a></th>'
        f'<td class="size">{checkpoint.tree_size:,}</td>'
        f"<td><code>{escape(format_base64(checkpoint.root_hash))}</code></td>"
        f"<td><time>{time}</time></td></tr>\n"
    )


def _time(unix_s: int) -> str:
    try:
        return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        # A clock that was centuries ahead must not make the page fail.
        return f"{unix_s} s after 1970"
