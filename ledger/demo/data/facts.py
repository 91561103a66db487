"""The facts of the intrusion, and the questions by which a responder finds them."""

from dataclasses import dataclass

from ledger.demo.data.event_maker import Day


@dataclass(frozen=True, slots=True)
class Intruder:
    """The intruder in the log: its account and session, its addresses, and what it created."""

    actor_id: str
    session_id: str
    token_id: str
    mfa_device_id: str
    spray_network: str
    entry_ip: str
    pivot_ip: str
    guessed_only_id: str
    impersonated_id: str
    reused_ticket: str
    export_id: str
    exported_records: int
    payout_account_id: str
    payout_tenant: str
    refund_ids: tuple[str, ...]
    refund_amounts_cents: tuple[int, ...]
    discovered_by_id: str
    incident_id: str
    # Day, minute, action: in order.
    key_actions: tuple[tuple[Day, str, str], ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A responder's question, the query that answers it, and how many events the answer has."""

    asks: str
    query: str
    finds: int


INTRUDER = Intruder(
    actor_id="u_117",
    session_id="s_7f3a11c4",
    token_id="tok_8841",  # noqa: S106 -- the name of a token that never was
    mfa_device_id="dev_66",
    spray_network="203.0.113.0/24",
    entry_ip="203.0.113.58",
    pivot_ip="198.51.100.77",
    guessed_only_id="u_112",
    impersonated_id="u_104",
    reused_ticket="IT-482",
    export_id="exp_3120",
    exported_records=48_211,
    payout_account_id="pa_9907",
    payout_tenant="tin-comet-toys",
    refund_ids=tuple(f"rf_{number}" for number in range(70_411, 70_420)),
    refund_amounts_cents=(49_000, 49_500, 48_900, 49_900, 47_500, 49_700, 48_000, 49_300, 49_200),
    discovered_by_id="u_108",
    incident_id="inc_7",
    key_actions=(
        (Day.TUESDAY, "23:47", "login.succeeded"),
        (Day.WEDNESDAY, "00:04", "session.resumed"),
        (Day.WEDNESDAY, "00:11", "mfa.device_added"),
        (Day.WEDNESDAY, "00:19", "token.created"),
        (Day.THURSDAY, "01:58", "support.impersonation_started"),
        (Day.THURSDAY, "02:09", "user.role_changed"),
        (Day.THURSDAY, "03:12", "customer.exported"),
        (Day.THURSDAY, "03:27", "audit.forwarding_disabled"),
        (Day.THURSDAY, "03:34", "export.deleted"),
        (Day.FRIDAY, "01:55", "payout_account.created"),
        (Day.FRIDAY, "02:05", "refund.created"),
    ),
)

QUESTIONS = (
    Question(
        "Which refunds went to the account that the shop does not know?",
        "action:refund.created target:pa_9907 outcome:success",
        9,
    ),
    Question(
        "Who added that account, and from where?", "action:payout_account.created target:pa_9907", 1
    ),
    Question("What else was done from that address?", "source:198.51.100.77", 73),
    Question("And what was it denied?", "source:198.51.100.77 outcome:denied", 9),
    Question("Which data left the company?", "source:198.51.100.77 action:customer.exported", 1),
    Question(
        "Where had the session been before?", "session:s_7f3a11c4 NOT source:198.51.100.77", 2
    ),
    Question(
        "Who else logged in from that network?", "source:203.0.113.0/24 action:login.succeeded", 1
    ),
    Question("How many guesses did it take?", "source:203.0.113.0/24 action:login.failed", 112),
    Question(
        "Whose password was guessed too, and only the second factor held?",
        "source:203.0.113.0/24 action:login.mfa_failed",
        1,
    ),
    Question("Why did u_117 have no second factor?", "action:mfa.exempted target:u_117", 1),
    Question("Who changed the role of u_117?", "action:user.role_changed target:u_117", 3),
    Question("Is the token dead?", "target:tok_8841", 5),
)
