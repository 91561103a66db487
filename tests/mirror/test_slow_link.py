"""A mirror behind a slow link asks for fewer bundles at once, when all of them come too late."""

import threading
import time
from pathlib import Path

import pytest

from ledger.mirror import follower
from ledger.mirror.catch_up import BUNDLES_MAX, Pace
from tests.client.liar import Liar, Message
from tests.mirror.mirroring import make_mirror, mirroring, wait_published
from tests.service.check_log import check_ledger
from tests.service.serving import Ledger, event

EVENTS = 1_536
"""Six bundles."""

AT_ONCE_MAX = 2


def test_fewer_bundles_are_asked_for_until_they_come_and_more_again_later() -> None:
    pace = Pace()
    asked = []
    for _ in range(6):
        pace.shrink()
        asked.append(pace.bundles)
    assert asked == [8, 4, 2, 1, 1, 1]
    for _ in range(2 * BUNDLES_MAX):
        pace.grow()
    assert pace.bundles == BUNDLES_MAX


class NarrowLink:
    """Brings no bundle when more than `AT_ONCE_MAX` are asked for at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = 0

    def ask(self, message: Message) -> None:
        """Count a request; there is no stream."""
        if "/stream" in message.target:
            message.target = "/nothing"
        if "/tile/entries" in message.target:
            with self._lock:
                self._asked += 1

    def answer(self, message: Message) -> None:
        """Refuse all that were asked for together."""
        if "/tile/entries" not in message.target:
            return
        time.sleep(0.1)
        is_crowded = self._asked > AT_ONCE_MAX
        time.sleep(0.2)  # Until all of them have looked.
        with self._lock:
            self._asked -= 1
        if is_crowded:
            message.status, message.body = 503, b'{"title":"late","status":503,"detail":"late"}'


def test_a_mirror_catches_up_over_a_slow_link(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "BACKOFF_MAX_S", 0.5)
    ledger.append(*(event() for _ in range(EVENTS)))
    wait_published(ledger, EVENTS)
    link, folder = NarrowLink(), tmp_path / "mirror"
    with Liar(ledger.url) as liar:
        liar.lie_to_service, liar.lie_to_client = link.ask, link.answer
        with mirroring(folder, make_mirror(folder, ledger, url=liar.url)) as mirror:
            wait_published(mirror, EVENTS)
            assert check_ledger(mirror).leaves[:EVENTS] == check_ledger(ledger).leaves[:EVENTS]
