"""An auditor: a monitor together with the host that it asks, and lies for that host to tell."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ledger_client.audit.monitor import Monitor, Progress, Report, WitnessSite
from ledger_client.messages import Request, Response
from ledger_core.tlog.note import Note, format_note, parse_note
from ledger_core.tlog.policy import Policy
from tests.client.hosts import Host, entries, entry
from tests.client.trees import SmallLog

NOW = 1_764_036_500
STALE_S = 600.0
LOG = SmallLog(entries(1100))
FORK = SmallLog([*LOG.leaves[:300], *(entry(n, actor="u_2") for n in range(300, 1100))])
"""The same key, and another tree from entry 300 on."""


@dataclass
class Auditor:
    """A monitor and the host that it asks."""

    monitor: Monitor
    host: Host
    now: float = NOW

    def run_round(self) -> str | None:
        """One round, without witnesses."""
        remark = self.host.run(self.monitor.fetch_head(self.now))
        while self.monitor.has_work:
            self.host.run(self.monitor.check_entries())
        return remark

    def compare(self, site: WitnessSite, note: str) -> str | None:
        """Be shown a head by a witness."""
        shown = Host(LOG)
        shown.lie = lambda _request, _response: Response(status=200, body=note.encode())
        head = shown.run(self.monitor.fetch_witness_head(site))
        assert head is not None
        return self.host.run(self.monitor.check_witness_head(site, head, self.now))

    @property
    def report(self) -> Report:
        report = self.monitor.report
        assert report is not None
        return report

    @property
    def size(self) -> int:
        return self.report.head.checkpoint.tree_size

    @property
    def checked(self) -> int | None:
        return self.report.entries_checked

    @property
    def sites(self) -> tuple[WitnessSite, ...]:
        return self.monitor.sites({})

    def restarted(self, **changes: Any) -> "Auditor":
        """Another monitor that goes on from what this one keeps."""
        kept = {"anchor": self.monitor.latest_note, "progress": self.monitor.progress}
        return audit(self.host, policy=self.monitor._policy, **(kept | changes))


def audit(host: Host, *, policy: Policy | None = None, **changes: Any) -> Auditor:
    options: dict[str, Any] = {
        "anchor": None,
        "progress": Progress(),
        "is_reader": True,
        "is_polling": False,
        "stale_after_s": STALE_S,
    }
    return Auditor(Monitor(policy or LOG.policy, **(options | changes)), host)


def about(path: str, change: Callable[[bytes], bytes | None]) -> Callable[..., Response]:
    """A lie: the answers under a path are changed, or are 404 for None."""

    def lie(request: Request, response: Response) -> Response:
        if not request.target.startswith(path):
            return response
        body = change(response.body)
        if body is None:
            return Response(status=404, body=b'{"type":"/v1/problems#no-tile"}')
        return replace(response, body=body)

    return lie


def unsigned(note: str) -> str:
    stranger = SmallLog([], key="another key").signer
    parsed = parse_note(note)
    return format_note(Note(parsed.text, (stranger.sign(parsed.text),)))


def with_bad_signature(note: str) -> str:
    lines = note.splitlines(keepends=True)
    return "".join([*lines[:1], "599\n", *lines[2:]])
