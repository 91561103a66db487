"""The page of a witness, for people: its name, its keys, and the logs that it cosigns.

It is one HTML document without scripts and without resources from elsewhere. Every text on it that
comes from a log or a key is escaped.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from html import escape
from typing import Final

from ledger.witness.store import KnownLog
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.cosignature import parse_verifier
from ledger_core.tlog.keys import MLDSA44_COSIGNATURE
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.witness import cosigned_at

LOGS_SHOWN_MAX: Final = 250
"""Reading them takes milliseconds, during which no other request is answered."""

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #62676e; --accent: #0b6e4f;
  --paper: #fbfaf7; --card: #fff; --line: #d9d5ca; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6e1; --faint: #9aa1a9; --accent: #5ec9a0;
  --paper: #14171a; --card: #1b1f23; --line: #343a40; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 3rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2.5rem 0 .6rem; }
p { margin: .4rem 0; max-width: 46rem; }
.lead, .none { color: var(--faint); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; }
.key { margin: .6rem 0; padding: .7rem .9rem; }
.key b { display: block; font-weight: 600; font-size: .85rem; color: var(--faint); }
code { font: .84rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
.key code { display: block; max-height: 6.4rem; overflow: auto; user-select: all; }
.logs { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .6rem .9rem;
  border-top: 1px solid var(--line); }
thead th { border-top: 0; font-size: .85rem; font-weight: 600; color: var(--faint); }
tbody th { font-weight: 600; overflow-wrap: anywhere; min-width: 12rem; }
td code { display: block; min-width: 13rem; }
.size { text-align: right; font-variant-numeric: tabular-nums; }
time { white-space: nowrap; }
a { color: var(--accent); }
footer { margin-top: 3rem; font-size: .9rem; color: var(--faint); }
"""

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
    title = escape(name)
    keys = "".join(map(_key, vkeys))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Witness {title}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="lead">A witness for transparency logs. It cosigns a log's tree head only when that head
extends the last one it cosigned, so a log can't show two people two histories unnoticed.</p>
<h2>Verifier keys</h2>
{keys}<h2>Logs</h2>
{_logs(logs, logs_count)}
<footer>
<p>Logs submit checkpoints to <code>add-checkpoint</code>, as
<a href="https://c2sp.org/tlog-witness">c2sp.org/tlog-witness</a> says.</p>
</footer>
</main>
</body>
</html>
"""


def _key(vkey: str) -> str:
    is_mldsa = parse_verifier(vkey).algorithm == MLDSA44_COSIGNATURE
    kind = "ML-DSA-44" if is_mldsa else "Ed25519"
    return f'<div class="card key"><b>{kind}</b><code>{escape(vkey)}</code></div>\n'


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
    origin = escape(log.origin)
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
