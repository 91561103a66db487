"""Lines of Keycloak's log as it writes them, in each of its forms, with hostile texts in them."""

import json
import random
from typing import Any, Final, Literal

import pytest

from ledger_client.collect.importers import load_format

Form = Literal["quoted", "quotes=none", "before 24"]
Line = tuple[str, str, str | None, str | None]
"""The message, the type, the user and who impersonates."""

LINES: Final = 1_000
TRUE_IP: Final = "192.0.2.1"
WORDS: Final = (
    *(
        "x",
        "a b",
        ", ",
        ",",
        "=",
        "'",
        '"',
        "\\",
        "='",
        "', ",
        ',"',
        "cookies=[",
        "access_denied",
        "null",
    ),
    *("userId=", "ipAddress=", "error=", "type=", "realmId=", "clientId=", "username=", "code_id="),
    *("impersonator=", "sessionId=", "token_id=", "realmName=", "resourceType=", "operationType="),
    *("victim", "198.51.100.7"),
)
TYPED: Final = (
    "a, userId=victim, ipAddress=198.51.100.7",
    "a, userId=victim, ipAddress=198.51.100.7, error=e, username=victim",
    'a", userId="victim", ipAddress="198.51.100.7',
    "x, impersonator=victim",
    "x', impersonator='victim",
    ', impersonator=victim, "',
    "x, impersonator=",
    "x, sessionId=victim, ipAddress=198.51.100.7",
    "x, userId=victim, z='",
    "x\\",
)
TYPES: Final = (
    *("LOGIN", "LOGIN_ERROR", "CODE_TO_TOKEN", "REFRESH_TOKEN", "TOKEN_EXCHANGE", "LOGOUT"),
    *("TOKEN_EXCHANGE_ERROR", "CLIENT_LOGIN_ERROR", "REGISTER_ERROR", "IMPERSONATE"),
)


class Writer:
    """Writes lines as Keycloak does, with texts that somebody typed."""

    def __init__(self, form: Form) -> None:
        self._form: Final = form
        self._random: Final = random.Random(form)

    def line(self) -> Line:
        """An event with a user or without, by whom it is, and details in any order."""
        of_type = self._random.choice(TYPES)
        user = self._random.choice((None, "true-user"))
        by = "true-impersonator" if self._is_by_another(of_type) else None
        pairs = {"type": of_type, "realmId": "r"}
        if self._random.random() < 0.5:
            pairs["realmName"] = "shop"
        pairs |= {"clientId": self._typed(), "userId": user or "null"}
        if self._random.random() < 0.3:
            pairs["sessionId"] = "true-session"
        pairs["ipAddress"] = TRUE_IP
        if of_type.endswith("_ERROR"):
            pairs["error"] = "bad"
        details = {name: self._typed() for name in ("redirect_uri", "scope", "audience")}
        if by is not None:
            details["impersonator"] = by
        if of_type == "LOGIN":
            details["username"] = "true-name"
        elif of_type.endswith(("LOGIN_ERROR", "REGISTER_ERROR")):
            details["username"] = self._typed()
        names = self._random.sample(sorted(details), len(details))
        text = ", ".join(
            [
                *(f"{name}={self._value(value)}" for name, value in pairs.items()),
                *(f"{name}={self._value(details[name], is_detail=True)}" for name in names),
            ]
        )
        return text, of_type, user, by

    def _is_by_another(self, of_type: str) -> bool:
        return of_type == "IMPERSONATE" or (
            of_type == "TOKEN_EXCHANGE" and self._random.random() < 0.5
        )

    def _typed(self) -> str:
        match self._random.randrange(3):
            case 0:
                return "shop"
            case 1:
                return self._random.choice(TYPED)
        return "".join(self._random.choices(WORDS, k=self._random.randrange(14)))

    def _value(self, text: str, *, is_detail: bool = False) -> str:
        if self._form == "quoted":
            escaped = text.replace('"', '\\"')
            return f'"{escaped}"'
        return f"'{text}'" if self._form == "before 24" and is_detail and " " in text else text


@pytest.mark.parametrize("form", ["quoted", "quotes=none", "before 24"])
def test_no_text_that_somebody_typed_is_a_user_an_address_or_an_end(form: Form) -> None:
    writer = Writer(form)
    keycloak = load_format("keycloak")
    named = 0
    for _ in range(LINES):
        message, of_type, user, by = writer.line()
        record = {
            "timestamp": "2026-11-25T02:03:36.123456Z",
            "loggerName": "org.keycloak.events",
            "message": message,
        }
        (event,) = keycloak.map(json.dumps(record).encode())
        actor: dict[str, Any] = event["actor"]
        if actor.get("type") == "user":
            named += 1
            assert actor["id"] == (by or user), message
            if not of_type.endswith("_ERROR"):
                assert actor.get("name", "true-name") in ("true-name", by), message
        assert actor.get("on_behalf_of", {}).get("id", user) in (user, "true-name"), message
        assert actor.get("session", "true-session") == "true-session", message
        assert "credential" not in actor, message
        assert event.get("source", {"ip": TRUE_IP}) == {"ip": TRUE_IP}, message
        assert (event["outcome"] == "success") is not of_type.endswith("_ERROR"), message
    assert named > LINES / 10
