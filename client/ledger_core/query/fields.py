"""The one table of query fields: what a query can name, and what the index stores of an event.

From a row derive the field's name and help in the language (`parser`, docs/searching.md), how its
value is read (`value_parser`), its values in an event (`predicate`), its dimension in the index
with the number that stands for it on disk (`ledger.store.keyspace`), its place in a plan
(`ledger.query.plan`), and whether a search can count it (`ledger.query.facets`).

A new dimension is one row here with the next free number, and one line in `analyzer.EventView`
where that does not decode the value yet. Numbers are part of the index format: never change or
reuse one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from ledger_core.query.analyzer import ABSENT, LeafView
from ledger_core.query.event_values import change_values, context_values, masks_of
from ledger_core.query.user_agents import family_of

Kind: TypeAlias = Literal[
    "action", "address", "context", "delay", "has", "id", "index", "name", "outcome", "port",
    "since", "target", "text", "time", "until", "words",
]  # fmt: skip
"""How a value is read and compared. `text`: exactly, or by its beginning. `name`: so in quotes, and
else by words. `context`: as text, or as a number within a range."""

ReadValues: TypeAlias = Callable[[LeafView], Sequence[str]]
"""The values of a field in a leaf; ABSENT may be among them."""


@dataclass(frozen=True, slots=True)
class Field:
    """A row of the table.

    At most one of `attribute`, `read_several`, `read_at` and `context_key` says where values are.
    """

    name: str
    meaning: str = ""
    """Help for users; empty for a dimension that the index derives and the language cannot name."""
    example: str = ""
    aliases: tuple[str, ...] = ()
    kind: Kind = "text"
    number: int | None = None
    """The dimension's number on disk, 1 to 255; None: not in the index."""
    rank: int = 0
    """How many entries share a value, compared to other fields: plans read low ranks first."""
    attribute: str = ""
    """Where a LeafView holds the one value."""
    read_several: ReadValues | None = None
    """Reads the values where an event may have none or many."""
    read_at: Callable[[LeafView, str], Sequence[str]] | None = None
    """Reads the values at a path, which is part of the name: `context.region`."""
    context_key: str = ""
    """The key of `context` that holds the value."""
    is_folded: bool = False
    """Whether values compare without upper and lower case; the index stores folded values too."""
    is_facet: bool = False
    """Whether a search can count its values."""
    has_column: bool = False
    """Whether segments store the value of each entry too: for facets over very many values."""
    is_whole: bool = False
    """Whether the index stores long values whole, as they are few or short."""

    @property
    def syntax(self) -> str:
        """The name as the documentation shows it."""
        return "context.KEY" if self.name == "context" else self.name

    def reader(self, path: str = "") -> ReadValues:
        """A function that reads the field's values from a leaf; `path` is part of the name."""
        if self.attribute:
            read_one = attrgetter(self.attribute)
            return lambda leaf: (read_one(leaf),)
        if self.read_several:
            return self.read_several
        read_at = self.read_at or _read_context
        key = self.context_key or path
        return lambda leaf: read_at(leaf, key)


def _read_context(leaf: LeafView, path: str) -> list[str]:
    return context_values(leaf.event, path)


def _behalf_ids(leaf: LeafView) -> tuple[str, ...]:
    principal = leaf.event.actor.on_behalf_of
    return () if principal is None else (principal.id,)


def _ports(leaf: LeafView) -> tuple[str, ...]:
    port = leaf.event.source.port
    return () if port < 0 else (str(port),)


def _families(leaf: LeafView) -> tuple[str, ...]:
    user_agent = leaf.event.source.user_agent
    family = "" if user_agent == ABSENT else family_of(user_agent)
    return (family,) if family else ()


_ROWS = (
    Field("actor", "the id of the actor", "actor:u_5", ("actor.id",), number=3, rank=5,
          attribute="event.actor.id", is_facet=True, has_column=True),
    Field("actor.type", "the type of the actor", "actor.type:service", number=5, rank=19,
          attribute="event.actor.type", is_folded=True, is_facet=True),
    Field("actor.on_behalf_of", "the id of whom the actor acted for", "actor.on_behalf_of:u_88",
          number=4, rank=7, read_several=_behalf_ids, is_facet=True),
    Field("action", "the action", "action:login.*", kind="action", number=1, rank=13,
          attribute="event.action", is_folded=True, is_facet=True, is_whole=True),
    Field("target", "the id of a target, or its type and its id", "target:r_17,user/u_5",
          ("target.id",), kind="target", number=18, rank=3,
          read_several=lambda leaf: [target.id for target in leaf.event.targets], is_facet=True),
    Field("target.type", "the type of a target", "target.type:invoice", number=19, rank=16,
          read_several=lambda leaf: [target.type for target in leaf.event.targets], is_folded=True,
          is_facet=True),
    Field("actor.name", "the name of the actor in quotes, or a word of it", "actor.name:okafor",
          kind="name", number=23, rank=8, attribute="event.actor.name", is_facet=True,
          is_whole=True),
    Field("target.name", "the name of a target in quotes, or a word of it",
          'target.name:"Q3 plan"', kind="name", number=24, rank=8,
          read_several=lambda leaf: [target.name for target in leaf.event.targets],
          is_facet=True, is_whole=True),
    Field("source", "the source address, or its network", "source:203.0.113.0/24", ("source.ip",),
          kind="address", number=17, rank=6, attribute="event.source.ip", is_facet=True,
          has_column=True),
    Field("port", "the source port, or a range", "port:1024..65535", ("source.port",), kind="port",
          number=27, rank=4, read_several=_ports, is_facet=True),
    Field("user_agent", "the user agent in quotes, or a word of it", "user_agent:curl",
          ("source.user_agent",), kind="name", number=25, rank=12,
          attribute="event.source.user_agent", is_facet=True, is_whole=True),
    Field("user_agent.family", "the browser or tool that the user agent names",
          "user_agent.family:firefox,curl", number=26, rank=13, read_several=_families,
          is_facet=True),
    Field("outcome", "success, failure, denied or unknown", "outcome:failure,denied",
          kind="outcome", number=11, rank=20, attribute="event.outcome", is_facet=True),
    Field("tenant", "the tenant", "tenant:acme", number=20, rank=12,
          attribute="event.tenant", is_facet=True),
    Field("session", "the session of the actor", "session:s_9", ("actor.session",),
          number=16, rank=2, attribute="event.actor.session", is_facet=True),
    Field("credential", "the credential of the actor", "credential:tok_17", ("actor.credential",),
          number=7, rank=4, attribute="event.actor.credential", is_facet=True),
    Field("service", "the service that the event came through", "service:api",
          ("source.service",), number=15, rank=15, attribute="event.source.service", is_facet=True),
    Field("request", "the request id in the context", "request:r-1", ("context.request_id",),
          number=14, rank=0, context_key="request_id"),
    Field("trace", "the trace id in the context", "trace:4bf9*", ("context.trace_id",),
          number=21, rank=1, context_key="trace_id"),
    Field("reason", "words of the reason", 'reason:"legal hold"', kind="words", number=12, rank=9,
          read_several=lambda leaf: (leaf.event.reason,)),
    Field("id", "the id of the event", "id:0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50", kind="id",
          attribute="event.id"),
    Field("index", "the index in the log, or a range", "index:100..199", kind="index"),
    Field("time", "when it happened", "time:2026-11-24..2026-11-25", kind="time"),
    Field("since", "as `time`, from then on", "since:-24h", kind="since"),
    Field("until", "as `time`, up to then", "until:2026-11-25T12:00Z", kind="until"),
    Field("received", "when the log received it", "received:-1h..", kind="time", number=13),
    Field("received.by", "the name of the token that the event came with",
          "received.by:billing-api", number=30, rank=15, attribute="received.by", is_facet=True),
    Field("late", "seconds from the event to its receipt, or s, m, h, d, w", "late:>1h",
          kind="delay", number=31, rank=17),
    Field("recorder", "the instance of the recorder that sent the event",
          "recorder:api-7f9c*", ("recorder.instance",), number=33, rank=6,
          attribute="event.recorder.instance", is_facet=True),
    Field("masked", "the rule by which a secret was masked", "masked:password", number=32, rank=10,
          read_several=lambda leaf: masks_of(leaf.event), is_facet=True),
    Field("field", "the path of a change", "field:/role", number=8, rank=10,
          read_several=lambda leaf: [change.path for change in leaf.event.changes], is_folded=True),
    Field("has", "the event has a value of this field", "has:session", kind="has"),
    Field("before", "a value before a change; `before.role` at this path", "before.role:member",
          number=28, rank=10,
          read_at=lambda leaf, path: change_values(leaf.event, "before", path)),
    Field("after", "a value after a change; `after.role` at this path", "after.role:owner,admin",
          number=29, rank=10,
          read_at=lambda leaf, path: change_values(leaf.event, "after", path)),
    Field("context", "a value of the context by its path", "context.region:eu-west-1",
          kind="context", number=6, rank=8, read_at=_read_context),
    # The index derives these from other fields: for `action:iam.*`, for times, for words, for
    # values with upper case letters, for numbers of the context, and for `target:user/u_5`.
    Field("action.family", number=2, rank=14),
    Field("hour", number=9, rank=17),
    Field("minute", number=10, rank=18),
    Field("word", number=22, rank=11),
    Field("actor.name.word", number=34, rank=10),
    Field("target.name.word", number=35, rank=10),
    Field("user_agent.word", number=36, rank=14),
    Field("target.several", number=37, rank=9),
    Field("folded", number=40, rank=14),
    Field("number", number=41, rank=9),
)  # fmt: skip

FIELDS: Final[Mapping[str, Field]] = MappingProxyType({row.name: row for row in _ROWS})
"""Every row by its name."""

LANGUAGE: Final = tuple(row for row in _ROWS if row.meaning)
"""The fields that a query can name, in the order of the documentation."""

DIMENSION_NUMBERS: Final[Mapping[str, int]] = MappingProxyType(
    {row.name: row.number for row in _ROWS if row.number is not None}
)
"""The number that stands for a dimension on disk."""

DIMENSIONS: Final = tuple(sorted(DIMENSION_NUMBERS, key=DIMENSION_NUMBERS.__getitem__))
"""The dimensions of the index in the order in which segments store them."""

FOLDED: Final = tuple(row.name for row in _ROWS if row.is_folded)
"""The fields that compare without upper and lower case."""

FACETS: Final = tuple(sorted(row.name for row in _ROWS if row.is_facet))
"""The fields whose values a search can count."""

COLUMNS: Final = tuple(name for name in DIMENSIONS if FIELDS[name].has_column)
"""The dimensions of which segments store the value of each entry."""

CONTEXT_DIMENSIONS: Final[Mapping[str, str]] = MappingProxyType(
    {row.context_key: row.name for row in _ROWS if row.context_key}
)
"""The keys of `context` that have dimensions of their own."""

WHOLE_IDS: Final = (
    "actor", "actor.on_behalf_of", "target", "session", "credential", "request", "trace",
    "recorder",
)  # fmt: skip
"""The fields that a search without a field compares as a whole, beside the event's own id."""
