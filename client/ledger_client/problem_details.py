"""Why the ledger, or the check before sending, refuses something."""

import msgspec

DETAIL_CHARS_MAX = 500


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """A problem document; the members from `field` on are our own. Source: RFC 9457 §3.1."""

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    field: str | None = None
    limit: int | str | None = None
    got: int | str | None = None
    rule: str | None = None
    position: int | None = None
    length: int | None = None
    expected: tuple[str, ...] = ()
    nearest: str | None = None

    @property
    def slug(self) -> str:
        """The name of the rule that was broken: what stands after the `#` of the type."""
        return self.type.rpartition("#")[2]

    def printable(self, status: int) -> "Problem":
        """The problem as a terminal or a log may show it, with the status that was sent."""
        return Problem(
            type=_printable(self.type),
            title=_printable(self.title),
            status=status,
            detail=_printable(self.detail),
            field=None if self.field is None else _printable(self.field),
            limit=_printable(self.limit) if isinstance(self.limit, str) else self.limit,
            got=_printable(self.got) if isinstance(self.got, str) else self.got,
            rule=None if self.rule is None else _printable(self.rule),
            position=self.position,
            length=self.length,
            expected=tuple(map(_printable, self.expected)),
            nearest=None if self.nearest is None else _printable(self.nearest),
        )


def _printable(text: str) -> str:
    """A stranger's text without line breaks and terminal escapes, and not endless."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text[:DETAIL_CHARS_MAX])
