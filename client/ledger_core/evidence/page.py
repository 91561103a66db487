"""The texts in a bundle that people read: README.txt and index.html.

They repeat what the other files prove, for a reader who runs nothing. The page has no script and
loads nothing. What events and queries say is escaped.
"""

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import msgspec

from ledger_core.tlog.text import printable, printable_id

ROWS_MAX: Final = 500
CELL_CHARS_MAX: Final = 300
ROW_CHARS_MAX: Final = 4000
"""The texts of an event: escaped they take six times as much, and a verifier reads 16 MiB."""

BARS_MAX: Final = 366
BAR_CHARS: Final = 40

_TIME_CHARS: Final = (10, 7, 4)
"""A bar is a day, or a month or a year where there would be more than BARS_MAX."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The question, and who asked it, when and why. `query` has no relative times."""

    origin: str
    tree_size: int
    query: str
    token: str
    time: str
    tenant: str | None = None
    case: str | None = None
    reason: str | None = None
    disclose: tuple[str, ...] = ()

    def rows(self) -> Iterator[tuple[str, str]]:
        """The facts with their names, as both texts list them."""
        yield "Audit log", self.origin
        yield "Question", self.query or "every event"
        if self.tenant is not None:
            yield "Tenant", f"{self.tenant}; the events of others were not searched"
        yield "Searched", f"the first {self.tree_size:,} entries of the log, the oldest first"
        yield "Asked by", f"the holder of the access token {self.token}"
        yield "Asked at", f"{self.time} (UTC)"
        yield "Case", self.case or "none was given"
        yield "Reason", self.reason or "none was given"
        if self.disclose:
            yield "Disclosed", f"the private values at {', '.join(self.disclose)}"


_SHOWN: Final = """\
What this file shows, once it is verified
  * Each event was in the log, byte for byte, when the log's head was signed.
  * If witnesses have cosigned heads of the log, which verifying shows, each event existed
    before the time that they state for the first head that covers it. Witnesses are run by
    others than the log.
  * Each event answers the question above.
  * The log itself has recorded, as one of its entries, who made this export, when, and why.

What it does not show
  * That no other event answers the question. The log has recorded how many it found.
  * That what an event says is true. It is what the recording system sent at the time.
"""

_VERIFY: Final = """\
How to verify it, without the operator of the log and without a network
  You need the policy: the keys of the log and of its witnesses. Get it from the operator or
  from a witness by a way that you trust. The policy in this file is for reading alone:
  whoever wrote the file could have written it.

  1. With the program `ledger` (Python package witnessed-ledger-client):

         ledger verify THIS-FILE.zip --policy YOUR-POLICY

  2. With the program docs/examples/verify_evidence.py of the same project: one page of
     Python that you can read yourself. It was written from the description of the format
     alone and shares no line with the program above.
  3. With tools of others. statement.tlog-proof is a proof by c2sp.org/tlog-proof;
     `checkpoint` and the heads in heads.jsonl are checkpoints by c2sp.org/tlog-checkpoint.
     The hash of a leaf is SHA-256 of a zero byte and the line of events/*.jsonl
     (RFC 6962). docs/formats.md describes the rest.
"""

_FILES: Final = """\
The files
  index.html                what this text says, with a table of the events, for a browser
  query.txt                 the question
  events/N.jsonl            the events, exactly as the log holds them, one on a line
  events/N.multi-proof      their places in the log, and the proof that they stand there
  private/N.jsonl           disclosed private values, if any, with what proves them
  checkpoint                the signed head of the log that was searched
  heads.jsonl               earlier and later signed heads, with proofs that the log only grew
  statement.leaf.json       the entry of the log that records this export
  statement.tlog-proof      the proof that it is in the log
  policy                    the policy that the log publishes
  manifest.json             how many events there are
"""

_GLOSSARY: Final = (
    ("Event", "A record of one action: who did what, to what, when, from where."),
    ("Log", "The list of all events. Entries are added at its end, and none is ever changed."),
    ("Entry number", "The place of an event in the log, counted from 0."),
    ("Head", "The size of the log and one hash over all of its entries, signed by the log."),
    ("Hash", "A short number that depends on every bit: SHA-256."),
    ("Witness", "Somebody else who signs each head too, with the time, if the log only grew."),
    ("Policy", "The keys of the log and its witnesses, and how many witnesses must have signed."),
    ("Proof", "Hashes by which anybody can compute the hash of a head from an event."),
    ("Received", "The time at which the log received the event, by the clock of the log."),
)


def format_readme(asked: Asked) -> str:
    """The text of README.txt."""
    facts = "\n".join(f"  {name:<10} {printable(value)}" for name, value in asked.rows())
    title = "Evidence from an audit log"
    return "\n".join((title, "=" * len(title), "", facts, "", _SHOWN, _VERIFY, _FILES))


class PageWriter:
    """Collects index.html as events pass: the ROWS_MAX earliest of them, and a count for each day.

    The bundle has its events by index; the page has them in the order in which they happened.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked: Final = asked
        self._rows: Final[list[tuple[str, int, str]]] = []  # Ascending.
        self._times: Counter[str] = Counter()
        self._time_chars = _TIME_CHARS[0]
        self._events = 0

    def add(self, index: int, leaf: bytes) -> None:
        """Count an event of the log, and show it if it is among the earliest."""
        self._events += 1
        time = _decode_time(leaf).event.time
        if len(self._rows) < ROWS_MAX or (time, index) < self._rows[-1][:2]:
            insort(self._rows, (time, index, _row(index, msgspec.json.decode(leaf))))
            del self._rows[ROWS_MAX:]
        self._times[time[: self._time_chars]] += 1
        while len(self._times) > BARS_MAX and self._time_chars > _TIME_CHARS[-1]:
            self._time_chars = _TIME_CHARS[_TIME_CHARS.index(self._time_chars) + 1]
            folded: Counter[str] = Counter()
            for each, count in self._times.items():
                folded[each[: self._time_chars]] += count
            self._times = folded

    def finish(self) -> str:
        """The whole page."""
        return _PAGE.format(
            origin=escape(printable(self._asked.origin)),
            facts=_facts(self._asked.rows()),
            events=f"{self._events:,}",
            shown=_paragraphs(_SHOWN),
            bars="".join(self._bars()),
            cut=(
                f"<p>The earliest {ROWS_MAX} of {self._events:,} events. All are in the folder"
                " <code>events</code>.</p>"
                if self._events > ROWS_MAX
                else ""
            ),
            rows="\n".join(row for *_, row in self._rows),
            verify=f"<pre>{escape(_VERIFY)}</pre>",
            files=f"<pre>{escape(_FILES)}</pre>",
            glossary=_facts(_GLOSSARY),
        )

    def _bars(self) -> Iterator[str]:
        most = max(self._times.values(), default=1)
        for time, count in sorted(self._times.items())[: 10 * BARS_MAX]:
            bar = "█" * max(1, count * BAR_CHARS // most)
            yield f"<tr><td>{escape(time)}</td><td>{count:,}</td><td>{bar}</td></tr>\n"


class _TimeOnly(msgspec.Struct):
    time: str


class _LeafTime(msgspec.Struct):
    event: _TimeOnly


_decode_time: Final = msgspec.json.Decoder(_LeafTime).decode


def _row(index: int, leaf: dict[str, Any]) -> str:
    event, received = leaf["event"], leaf["received"]
    source, who = event.get("source", {}), event["actor"]
    actor = [_principal(who)]
    if "on_behalf_of" in who:
        actor.append(f"on behalf of {_principal(who['on_behalf_of'])}")
    actor += (f"{key} {printable_id(who[key])}" for key in ("session", "credential") if key in who)
    cells = (
        [str(index)],
        [event["time"], f"received {received['time']}"],
        actor,
        [event["action"], event["outcome"]],
        map(_principal, event.get("targets", ())),
        (str(source[key]) for key in ("ip", "service", "user_agent") if key in source),
        [event["reason"]] if "reason" in event else [],
        map(_change, event.get("changes", ())),
    )
    left = ROW_CHARS_MAX
    row = ""
    for cell in cells:
        shown, left = _fitting(cell, left)
        row += f"<td>{'<br>'.join(shown)}</td>"
    return f"<tr>{row}</tr>"


def _principal(fields: dict[str, Any]) -> str:
    """Type, id and name. People choose their names: in quotes one can't look like an id."""
    parts = [str(fields["type"])] if "type" in fields else []
    parts.append(printable_id(str(fields["id"])))
    if "name" in fields:
        parts.append(msgspec.json.encode(fields["name"]).decode())
    return " ".join(parts)


def _change(change: dict[str, Any]) -> str:
    before, after = (
        msgspec.json.encode(change[key]).decode() if key in change else "nothing"
        for key in ("before", "after")
    )
    return f"{change['path']}: {_cut(before)} → {_cut(after)}"


def _fitting(texts: Iterable[str], chars_max: int) -> tuple[list[str], int]:
    """The lines of a cell, up to a number of characters in all; and how many are left."""
    lines: list[str] = []
    for text in texts:
        line = printable(_cut(text))
        if len(line) > chars_max:
            lines.append("… the rest stands in the folder <code>events</code>")
            break
        lines.append(escape(line))
        chars_max -= len(line)
    return lines, chars_max


def _cut(text: str) -> str:
    return text if len(text) <= CELL_CHARS_MAX else f"{text[:CELL_CHARS_MAX]}…"


def _facts(rows: Iterable[tuple[str, str]]) -> str:
    pairs = (f"<dt>{escape(name)}</dt><dd>{escape(printable(text))}</dd>" for name, text in rows)
    return f"<dl>{''.join(pairs)}</dl>"


def _paragraphs(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


_PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Evidence from the audit log {origin}</title>
<style>
body {{ font: 16px/1.5 sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #111 }}
table {{ border-collapse: collapse; font-size: 14px }}
td, th {{ border: 1px solid #aaa; padding: .3em .5em; text-align: left; vertical-align: top;
  overflow-wrap: anywhere }}
th, td:first-child {{ white-space: nowrap }}
td:nth-child(2) {{ min-width: 12em }}
td:nth-child(4) {{ min-width: 8em }}
dt {{ font-weight: bold }}
dd {{ margin: 0 0 .5em 2em; overflow-wrap: anywhere }}
pre {{ white-space: pre-wrap; font-size: 14px }}
</style>
</head>
<body>
<h1>Evidence from an audit log</h1>
<p>This page repeats in words what the other files of the bundle prove. It proves nothing itself:
see <a href="#verify">how to verify it</a>.</p>
<h2>What was asked, by whom, and why</h2>
{facts}
<p>The log found {events} events.</p>
<h2>What it shows</h2>
{shown}
<h2>Time line</h2>
<table><tr><th>Time (UTC)</th><th>Events</th><th></th></tr>
{bars}</table>
<h2>Events</h2>
{cut}
<table>
<tr><th>Entry</th><th>Time (UTC)</th><th>Who</th><th>Did</th><th>To</th><th>From</th><th>Reason</th>
<th>Before → after</th></tr>
{rows}
</table>
<h2 id="verify">How to verify it</h2>
{verify}
<h2>The files</h2>
{files}
<h2>Glossary</h2>
{glossary}
</body>
</html>
"""
