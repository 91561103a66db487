"""The policy as others may read it: no address in it has a name, a password or a query.

An address in the file `DIR/policy` may hold the credentials by which the service asks a witness.
Whoever checks a head by the policy needs its keys and its quorum alone.
"""

import re
from typing import Final

_AFTER_PATH: Final = re.compile(r"[?#]")
_WITH_ADDRESS: Final = re.compile(
    r"([ \t]*(?:log|witness[ \t]+[^ \t]+)[ \t]+[^ \t]+[ \t]+)([^ \t]+)([ \t]*)"
)
_COMMENT: Final = re.compile(r"[ \t]*#.*")
_ADDRESS: Final = re.compile(r"[^ \t]+://[^ \t]*")


def public_url(url: str) -> str:
    """An address without credentials: the name, the password and the query are left out."""
    address = _AFTER_PATH.split(url, maxsplit=1)[0]
    start = address.find("://") + len("://") if "://" in address else 0
    authority, slash, path = address[start:].partition("/")
    return f"{address[:start]}{authority.rpartition('@')[2]}{slash}{path}"


def public_policy(text: str) -> str:
    """The text of a policy with public addresses, in comments too; all else is as it was."""
    return "\n".join(map(_public_line, text.split("\n")))


def _public_line(line: str) -> str:
    if _COMMENT.fullmatch(line):
        return _ADDRESS.sub(lambda match: public_url(match[0]), line)
    # Names and keys may look like addresses, and must stay the same.
    if match := _WITH_ADDRESS.fullmatch(line):
        return f"{match[1]}{public_url(match[2])}{match[3]}"
    return line
