"""The model of an audit event: its fields, its limits, and the one error that refuses it.

    {"action": "user.role_changed", "outcome": "success",
     "actor": {"id": "u_12345", "type": "user", "session": "s_9"},
     "targets": [{"id": "u_777", "type": "user"}],
     "source": {"ip": "203.0.113.9", "user_agent": "Mozilla/5.0"},
     "changes": [{"path": "/role", "before": "member", "after": "admin"}],
     "context": {"request_id": "r-1"}}

Only `action`, `actor.id` and `outcome` are required. A key that is not listed here is refused, and
so is null where a key may be left out. Only `context`, `before` and `after` hold any JSON value.

`LIMITS` is the one table of maxima. The types below take theirs from it, so msgspec checks them
while decoding, and the documentation and the JSON Schema are printed from both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from msgspec import UNSET, Meta, Struct, UnsetType

from ledger_core.tlog.errors import MalformedError

INTEGER_MAX = 2**53 - 1
"""Beyond ± this, JSON readers in other languages round silently (RFC 8785 §3.2.2.3, RFC 7493)."""

ACTION_PATTERN = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*"

Rule = Literal[
    "action", "address", "id", "leaf-too-large", "missing-field", "not-json", "not-listed",
    "number", "out-of-range", "private", "repeated-key", "string", "time", "too-deep", "too-long",
    "too-many", "too-short", "unknown-key", "wrong-type",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `most` of `unit` in what `bounds` says."""

    most: int
    unit: str
    bounds: str


LIMITS: Mapping[str, Limit] = MappingProxyType(
    {
        "action": Limit(128, "characters", "`action`"),
        "id": Limit(
            256,
            "characters",
            "every `id` but the event's own, and `type`, `session`, `credential`, `service`, "
            "`tenant`, `instance`; at least one character",
        ),
        "name": Limit(1024, "characters", "every `name`, and `changes[].path`"),
        "user_agent": Limit(1024, "characters", "`source.user_agent`"),
        "reason": Limit(4096, "characters", "`reason`"),
        "port": Limit(65_535, "", "`source.port`"),
        "targets": Limit(32, "items", "`targets`"),
        "changes": Limit(256, "items", "`changes`"),
        "context_keys": Limit(64, "keys", "`context` itself; objects inside it have no own limit"),
        "context_key": Limit(256, "characters", "each key of `context` itself"),
        "depth": Limit(
            8,
            "levels",
            "objects and arrays inside one another; `context` is the first level, and so is an "
            "object or array that stands in `before` or `after`",
        ),
        "integer": Limit(INTEGER_MAX, "", "every number, and its negative; larger ones as strings"),
        "leaf": Limit(65_535, "bytes", "the leaf: the event and what the server adds, as stored"),
        "input": Limit(
            6 * 65_535,
            "bytes",
            "one event as sent, with its escapes and white space (six is the cost of `\\u0061`)",
        ),
    }
)

Outcome = Literal["success", "failure", "denied", "unknown"]

TEXT_SCHEMA = {"pattern": r"^[^\x00]*$"}
"""Part of the schema of every string; msgspec does not check it."""


def whole_text(pattern: str, *, chars_max: int | None = None) -> Meta:
    """The constraint that a pattern matches all of a text.

    `$` would do in JSON Schema, but in Python it also matches before a newline at the end.
    """
    schema = {"pattern": f"^(?:{pattern})$"}
    return Meta(pattern=rf"^(?:{pattern})\Z", max_length=chars_max, extra_json_schema=schema)


def _text(limit: str, *, min_length: int | None = None) -> Meta:
    chars_max = LIMITS[limit].most
    return Meta(min_length=min_length, max_length=chars_max, extra_json_schema=TEXT_SCHEMA)


Id = Annotated[str, _text("id", min_length=1)]
Name = Annotated[str, _text("name")]
UserAgent = Annotated[str, _text("user_agent")]
Reason = Annotated[str, _text("reason")]
ContextKey = Annotated[str, _text("context_key")]
Port = Annotated[int, Meta(ge=0, le=LIMITS["port"].most)]
Number = Annotated[int, Meta(ge=1, le=LIMITS["integer"].most)]
Action = Annotated[
    str,
    Meta(
        description="Segments joined by dots: user.role_changed, iam.CreateUser.",
        max_length=LIMITS["action"].most,
        extra_json_schema={"pattern": f"^{ACTION_PATTERN}$"},
    ),
]

EventId = Annotated[
    str,
    Meta(
        description="A UUID, the idempotency key for ever; kept in lower case.",
        extra_json_schema={
            "format": "uuid",
            "pattern": "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$",
        },
    ),
]
Time = Annotated[
    str,
    Meta(
        description="RFC 3339 with a zone; kept in UTC with six decimals, further ones cut off.",
        extra_json_schema={
            "format": "date-time",
            "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-5][0-9]"
            r"(\.[0-9]{1,32})?([Zz]|[+-][0-9]{2}:[0-9]{2})$",
        },
    ),
]
Address = Annotated[
    str,
    Meta(
        description="An IPv4 or IPv6 address without port or zone; IPv4-mapped IPv6 is unwrapped.",
        extra_json_schema={"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
    ),
]


class _Part(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True, gc=False
):
    """The base of all parts of an event: unknown keys are refused, absent ones stay absent.

    `gc=False`: no event refers to itself, and for a batch of thousands the collector would take a
    third of the time to read it.
    """


class Principal(_Part, frozen=True, kw_only=True):
    """Someone or something by its id: a target, or the one an actor acts for."""

    id: Id
    type: Id | UnsetType = UNSET
    name: Name | UnsetType = UNSET


class Target(Principal, frozen=True, kw_only=True):
    """A thing that was acted on."""


class Actor(Principal, frozen=True, kw_only=True):
    """The principal that acted, its session and credential, and the principal it acted for."""

    session: Id | UnsetType = UNSET
    credential: Id | UnsetType = UNSET
    on_behalf_of: Principal | UnsetType = UNSET


class Source(_Part, frozen=True, kw_only=True):
    """The origin of an action: address, user agent, service."""

    ip: Address | UnsetType = UNSET
    port: Port | UnsetType = UNSET
    user_agent: UserAgent | UnsetType = UNSET
    service: Id | UnsetType = UNSET


class Numbering(_Part, frozen=True, kw_only=True):
    """Which recorder an event went through, and its number there: from 1 on, none left out."""

    instance: Id
    seq: Number


class Change(_Part, frozen=True, kw_only=True):
    """One value that the action changed; null is a value here, and an absent key is not."""

    path: Name
    before: Any = UNSET
    after: Any = UNSET


Targets = Annotated[tuple[Target, ...], Meta(max_length=LIMITS["targets"].most)]
Changes = Annotated[tuple[Change, ...], Meta(max_length=LIMITS["changes"].most)]
Context = Annotated[dict[ContextKey, Any], Meta(max_length=LIMITS["context_keys"].most)]


class Event(_Part, frozen=True, kw_only=True):
    """One audit event: who did what to what, when, from where, and how it ended."""

    action: Action
    actor: Actor
    outcome: Outcome
    id: EventId | UnsetType = UNSET
    time: Time | UnsetType = UNSET
    targets: Targets | UnsetType = UNSET
    source: Source | UnsetType = UNSET
    reason: Reason | UnsetType = UNSET
    changes: Changes | UnsetType = UNSET
    context: Context | UnsetType = UNSET
    tenant: Id | UnsetType = UNSET
    recorder: Numbering | UnsetType = UNSET


class Received(_Part, frozen=True, kw_only=True):
    """The part that the server adds: the principal that it authenticated, and its time."""

    by: Id
    time: Time


class EventError(MalformedError):
    """The error that refuses an event.

    `field` names the place ("targets[3].name", "" for the whole event), `rule` the broken rule;
    `limit` and `got` are numbers where the rule has them. No part holds a value of the event: a
    refused value may be a secret, and errors end up in logs. Names of keys do appear, cut short.
    """

    def __init__(
        self,
        message: str,
        *,
        rule: Rule,
        field: str = "",
        limit: int | None = None,
        got: int | None = None,
    ) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.message = message
        self.rule: Rule = rule
        self.field = field
        self.limit = limit
        self.got = got

    @classmethod
    def exceeds(cls, what: str, unit: str, got: int, limit: int, *, rule: Rule, field: str) -> Self:
        """Return the error for something of which there is too much."""
        message = f"{what} {got} {unit}, at most {limit} are allowed"
        return cls(message, rule=rule, field=field, limit=limit, got=got)
