"""The answers about the log itself and the health of its service, as JSON like the rest of `api`.

No client decodes them. They are for operators, for their load balancer and alarms, and they are
not evidence: a verifier trusts its own policy instead.
"""

from msgspec import Struct

from ledger_core.api import Problem
from ledger_core.asking import Size


class WitnessAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A witness of the policy: the last head that it cosigned here, and any error since."""

    name: str
    verifier_key: str
    url: str | None = None
    cosigned_size: Size | None = None
    cosigned_at_unix_s: int | None = None
    error: str | None = None


class IndexAnswer(Struct, frozen=True, kw_only=True):
    """The number of full segments of 65,536 events, and how many of them the index has sealed.

    Events outside sealed segments are searched too, only slower. Unless `current`, the index is
    being rebuilt by newer rules of analysis.
    """

    sealed_segments: Size
    full_segments: Size
    current: bool


class PruningAnswer(Struct, frozen=True, kw_only=True):
    """The entries below `minimum_index` were pruned, as the event at `event_index` says."""

    minimum_index: Size
    event_index: Size


class LogAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The name, keys and size of the log. A verifier trusts its own policy instead of these.

    `clock_behind_s`: seconds by which the host's clock is behind the last entry, whose time of
    receipt all later ones get until it has caught up. `mirror_of`: the address of the log, if this
    is a mirror of it. `pruning`: the last one, if there was any.
    """

    origin: str
    verifier_keys: tuple[str, ...]
    witnesses: tuple[WitnessAnswer, ...]
    policy: str
    tree_size: Size
    clock_behind_s: int
    published_size: Size
    index: IndexAnswer
    mirror_of: str | None = None
    pruning: PruningAnswer | None = None


class Alive(Struct, frozen=True, kw_only=True):
    """The process answers."""

    status: str


class Ready(Struct, frozen=True, kw_only=True):
    """The service takes and proves events; `warnings` names what will soon prevent it."""

    status: str
    warnings: tuple[str, ...]


class NotReady(Problem, frozen=True, kw_only=True):
    """A problem document that lists why the service is not ready, and the warnings of `Ready`."""

    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()


class CheckpointShown(Struct, frozen=True, kw_only=True):
    """The answer to a checkpoint that was shown: whether the log has its entries."""

    known: bool
    tree_size: Size


class ProblemKind(Struct, frozen=True):
    """A row of the table of problems."""

    type: str
    title: str
    status: int
    meaning: str


class ProblemKinds(Struct, frozen=True, kw_only=True):
    """The table of problems."""

    problems: tuple[ProblemKind, ...]
