"""Finds the members `"key": value` of JSON that stands in a text and can't be decoded.

The text is cut short, has other text around it, or is in the notation of Python.
"""

import re
from typing import Final

_MEMBER: Final = re.compile(
    r"""(["'])(?P<key>[^"'\\{}\[\],:]{1,64})\\{0,7}\1\s*:\s*(?:"""
    r"""(\\{0,7})(["'])(?P<text>(?:[^"'\\]|(?!\3\4)(?:["']|\\+["']?))*)"""
    r"""|(?P<plain>[^\s"'\\{}\[\],]+)|(?P<open>[\[{](?=\s*[^\s\]}])))"""
)
"""Its quotes may be escaped."""
find_members: Final = _MEMBER.finditer
sub_members: Final = _MEMBER.sub

_match_mask: Final = re.compile(
    r"""\{\s*\\{0,7}["'](masked|commitment)\\{0,7}["']\s*:\s*\\{0,7}["']([\w-]+)"""
).match

starts_json: Final = re.compile("[ \t\r\n\ufeff]*[\\[{]").match
"""Matches a text that may be JSON as a whole: it begins as an object or an array does."""


def member_value(match: re.Match[str]) -> object:
    """The value of a member: a text, a mask, or None for a constant; a list of any other object."""
    if match["open"]:
        mask = _match_mask(match.string, match.start("open"))
        return ["text"] if mask is None else {mask[1]: mask[2]}
    is_constant = match["plain"] in ("null", "true", "false", "None", "True", "False")
    return None if is_constant else match["plain"] or match["text"]
