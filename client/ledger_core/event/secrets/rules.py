r"""The tables of rules: names of keys whose values are secret, and forms of well-known tokens.

A pattern is in the table when its form alone says that it is a secret: a prefix that its issuer
chose for that purpose, or a place (a header, a URL) where only secrets are. A long text that looks
random is not a secret for that reason. Identifiers of secrets pass: an AWS `accessKeyId` (AKIA…),
a Twilio `SK…` and a public key name something and open nothing.

All patterns are RE2 syntax and are searched for anywhere in a text, without `^` and `$`. A text is
between quotes in JSON, so a pattern that is found in a text is also found in the JSON around it,
and one search over an event's bytes can rule out all of them (see `scanner`).

What is weak here: formats change, and prose is not read. `password: hunter2`, `api_key=…` and
`Cookie: …` are found in a text, with what separates a value from prose about passwords; in `the
password is hunter2` and `password: swordfish` nothing is found.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import starmap
from typing import Any, Final, NamedTuple

from ledger_core.event.secrets.folding import fold
from ledger_core.event.secrets.luhn import CARD_PATTERN, has_card_number
from ledger_core.event.secrets.re2_sets import Pattern


class KeyRule(NamedTuple):
    """Names whose values are secret. The words of a name may be joined by separators or not.

    `endings` may have other words before them, `names` are the whole key; digits and separators
    after either don't count. `of_texts`: only if the value is a text, or a list of texts.
    `not_after`: letters before an ending that make it part of another word. `passes`: texts that
    are no secret under such a name. `is_case_kept`: upper and lower case count.
    """

    rule: str
    endings: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    of_texts: bool = False
    not_after: str = ""
    passes: Callable[[str], object] | None = None
    is_case_kept: bool = False


_BLOCKS: Final = ("pem-private-key", "putty-private-key")
"""Rules whose pattern matches the first line of a key that is many lines long."""


class PatternRule(NamedTuple):
    """A pattern that makes a text a secret, if the text also passes the check, where one is set."""

    rule: str
    pattern: str
    is_secret: Callable[[str], bool] | None = None

    def masked(self, part: str) -> str:
        """Return the text to put in the place of a part that the pattern matches."""
        is_secret = self.is_secret is None or self.is_secret(part)
        return f"masked.{self.rule}" if is_secret else part

    @property
    def span(self) -> str:
        """The pattern of the part of a long text to mask: a token to its end, a key block whole."""
        if self.rule in _BLOCKS:
            return rf"(?s:(?:{self.pattern}).*)"
        return self.pattern if self.is_secret else rf"(?:{self.pattern})[\w+/=~.-]*"


def _listed(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(","))


_is_number_or_uuid = re.compile(
    r"[0-9]+|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
).fullmatch
# `PWD` is also the working directory of a process.
_is_path = re.compile(r"(?:~|[A-Za-z]:)?(?:[/\\][\w .@+-]*)+").fullmatch

_PASSWORD_ELSEWHERE: Final = tuple(
    map(
        fold,
        _listed(
            "passwort, kennwort, passord, wachtwoord, lösenord, adgangskode, salasana,"
            "mot de passe, contraseña, senha, hasło, heslo, jelszó, şifre, mật khẩu,"
            "пароль, 密码, 密碼, パスワード, 비밀번호"
        ),
    )
)
"""The word in other languages, as keys are compared: without accents and look-alikes."""

KEY_RULES: Final = (
    KeyRule(
        "password",
        endings=(
            *_listed(
                "pass word, pass wd, pass phrase, password confirmation, password confirm,"
                "password repeat"
            ),
            *_PASSWORD_ELSEWHERE,
        ),
    ),
    KeyRule("password", endings=("pass code",), not_after="m"),  # compass code
    KeyRule("password", endings=("pwd",), passes=_is_path),
    KeyRule("password", names=("pass", "pw"), of_texts=True),
    KeyRule("private-key", endings=_listed("private key, private key pem, signing key")),
    KeyRule(
        "api-key",
        endings=_listed(
            "api key, api secret key, secret key, secret access key, account key,"
            "shared access key, subscription key"
        ),
    ),
    KeyRule("secret", endings=_listed("secret, secret value, seed phrase")),
    KeyRule(
        "token",
        endings=_listed(
            "access token, api token, auth token, authentication token, bearer token, bot token,"
            "csrf token, csrf middleware token, xsrf token, deploy token, id token, job token,"
            "oauth token, private token, refresh token,"
            "registration token, reset token, security token, session token, vault token"
        ),
        names=("token", "jwt", "bearer"),
    ),
    KeyRule(
        "one-time-code",
        endings=_listed("mfa code, otp code, verification code, recovery code, recovery codes"),
        names=("otp", "totp", "backup codes"),
    ),
    KeyRule("authorization", endings=("authorization",), of_texts=True),
    KeyRule("cookie", endings=("cookie", "cookies"), names=_listed("phpsessid, jsessionid")),
    # Django's cookie. `sessionId` is a field of many records, and opens nothing.
    KeyRule("cookie", names=("sessionid",), passes=_is_number_or_uuid, is_case_kept=True),
    KeyRule("credentials", endings=("credentials",), of_texts=True),
    KeyRule("card-number", endings=_listed("card number, card no, cc number")),
    KeyRule("card-code", endings=_listed("cvv, cvc, card pin, card security code"), names=("pin",)),
)

_TOKENS: Final = r"""
pem-private-key      -----BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----
age-key              \bAGE-SECRET-KEY-1[0-9A-Z]{58}\b
putty-private-key    \bPuTTY-User-Key-File-[0-9]
ledger-token         \bwl_[\w-]{43}
note-private-key     \bPRIVATE\+KEY\+
jwt                  \bey[IJ][\w-]{10,}\.ey[IJ][\w-]{8,}\.[\w-]{16,}
jwt                  \beyJ[\w-]{10,}\.[\w-]*\.[\w-]{16,}\.[\w-]+\.[\w-]{16,}

aws-session-token    \b(?:FwoGZXIvYXdz|IQoJb3JpZ2lu)[0-9A-Za-z/+=]{64,}
aws-secret-key       (?i)aws_?secret(?:_?access)?_?key["' ]{0,3}[:=]["' ]{0,3}[0-9a-z/+]{40}
aws-bedrock-key      \bABSK[0-9A-Za-z+/]{100,}
google-api-key       \bAIza[\w-]{35}
google-oauth         \b(?:ya29\.[\w-]{20,}|GOCSPX-[\w-]{28}|1//0[\w-]{30,})
azure-client-secret  \b[\w~.]{3}[0-9]Q~[\w~.-]{31,34}
azure-account-key    (?i)(?:account|shared ?access)key=[0-9a-z+/]{43,86}={0,2}
digitalocean-token   \bdo[por]_v1_[0-9a-f]{64}\b
heroku-key           \bHRKU-[\w-]{32,}

github-token         \bgh[pousr]_[0-9A-Za-z]{36,}
github-token         \bgithub_pat_[0-9A-Za-z]{22}_[0-9A-Za-z]{59}
gitlab-token         \bgl(?:pat|dt|rt|rtr|cbt|ptt|ft|imt|agent|soat|oas|ffct)-[\w-]{20,}
atlassian-token      \b(?:ATATT3|ATCTT3|ATBB|BBDC-)[\w-]{28,}
npm-token            \bnpm_[0-9A-Za-z]{36}\b
pypi-token           \bpypi-AgE[\w-]{50,}
rubygems-token       \brubygems_[0-9a-f]{48}\b
crates-token         \bcio[0-9A-Za-z]{32}\b
docker-token         \bdckr_[op]at_[\w-]{27,}
nuget-key            \boy2[a-z0-9]{43}\b
terraform-token      \b[0-9A-Za-z]{14}\.atlasv1\.[\w-]{60,}
vault-token          \bhv[sbr]\.[\w-]{24,}
huggingface-token    \bhf_[A-Za-z]{34}\b

slack-token          \bxox[abeoprs]-[0-9A-Za-z-]{10,}|\bxapp-[0-9]-[0-9A-Za-z-]{10,}
slack-token          \bxoxe\.xox[bp]-[0-9]-[0-9A-Za-z]{20,}
chat-webhook         \bhooks\.slack\.com/services/[0-9A-Z]{6,}/[0-9A-Za-z/]{12,}
chat-webhook         \bhooks\.slack\.com/(?:workflows|triggers)/[0-9A-Z]{6,}/[0-9A-Za-z/]{12,}
chat-webhook         \bdiscord(?:app)?\.com/api/webhooks/[0-9]{17,20}/[\w-]{60,}
chat-webhook         \bwebhook\.office\.com/webhookb2/[0-9a-f-]{36}
discord-token        \b[MNO][0-9A-Za-z]{23,25}\.[\w-]{6}\.[\w-]{27,}
telegram-token       \b[0-9]{8,10}:AA[\w-]{33}

stripe-key           \b(?:[sr]k_(?:live|test)_[0-9A-Za-z]{16,}|whsec_[0-9A-Za-z+/]{24,})
square-token         \bsq0(?:atp|csp)-[\w-]{22,}
paypal-token         \baccess_token\$(?:production|sandbox)\$[0-9a-z]{16}\$[0-9a-f]{32}
shopify-token        \bshp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}\b
sendgrid-key         \bSG\.[\w-]{22}\.[\w-]{43}
mail-key             \bkey-[0-9a-f]{32}\b|\b[0-9a-f]{32}-us[0-9]{1,2}\b
mail-key             \bxkeysib-[0-9a-f]{64}-[0-9A-Za-z]{16}\b
openai-key           \bsk-(?:(?:proj|svcacct|admin)-)?[\w-]{16,}T3BlbkFJ[\w-]{16,}
anthropic-key        \bsk-ant-[a-z]+[0-9]{2}-[\w-]{80,}
databricks-token     \bdapi[0-9a-f]{32}\b
grafana-token        \bglsa_[0-9A-Za-z]{32}_[0-9a-f]{8}\b|\bglc_eyJ[0-9A-Za-z+/=]{40,}
newrelic-key         \bNR(?:AK|JS|RA)-[0-9A-Za-z]{19,}
sentry-token         \bsntry[su]_[0-9A-Za-z+/=_]{40,}
linear-key           \blin_(?:api|oauth)_[0-9A-Za-z]{40,}
postman-key          \bPMAK-[0-9a-f]{24}-[0-9a-f]{34}\b
"""
"""Token formats, a rule and its pattern on each line: general, clouds, code hosts, chat, others."""


def _is_basic(match: str) -> bool:
    """Tell whether base64 of a name, a colon and a password follows `Basic` (RFC 7617 §2)."""
    encoded = match.split()[-1]
    try:
        decoded = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except binascii.Error:
        return False
    _, colon, password = decoded.partition(b":")
    return bool(colon and password)


# Python's own `re`, which answers for a short text in a tenth of the time that RE2's binding takes.
# It stays linear: no alternative can begin with what the repetition before it takes.
_is_digest = re.compile("[0-9a-f]{32}").fullmatch
is_placeholder = re.compile(
    r"masked\.[a-z0-9-]+(?:\.[0-9a-f]{32})?"
    r"|[\W_]*(?:(?:x{3,}|redacted|masked|hidden|filtered|removed|omitted|none|null|undefined"
    r"|hidden_due_to_security_reasons)[\W_]*)?"
    r"|hmac-sha256:[0-9a-f]{64}"
    r"|\$\{?[a-z0-9_.]+\}?|\{\{? ?[a-z0-9_.]+ ?\}?\}|<[a-z0-9_ -]+>|%[a-z0-9_]+%",
    re.IGNORECASE,
).fullmatch

"""Matches a text that replaces a secret: `***`, `[REDACTED]`, `${TOKEN}`, Vault's HMAC of one."""


def is_digest(value: object) -> bool:
    """Tell whether a value is a digest that replaces an id."""
    return isinstance(value, str) and _is_digest(value) is not None


def _checked(rule: str, pattern: str, is_secret: Callable[[str], object]) -> PatternRule:
    """A rule whose check is made of each place that the pattern finds."""
    found_in = Pattern(pattern).found_in
    return PatternRule(rule, pattern, lambda text: any(map(is_secret, found_in(text))))


_ENCODED_DELIMITER: Final = "%(?:25)*(?:3F|26|3B|23)"
"""`?`, `&`, `;` or `#` in a URL that is a part of another."""
_NAMED_IN_URL: Final = (
    "(?:access_?token|refresh_?token|id_?token|auth_?token|token|api_?key|apikey"
    "|pass(?:word|wd)?|pwd|secret|client_?secret|sig|signature|private_?token"
    "|x-(?:amz|goog|oss)-signature|x-amz-security-token|security-token"
    "|(?:csrf|xsrf|session|reset|verification|confirmation|invitation|login)_?token"
    "|sessionid|phpsessid|jsessionid)(?:=|%(?:25)*3D)"
)
_split_url = re.compile(_ENCODED_DELIMITER, re.IGNORECASE).split
_named_in_url = re.compile(rf'[?&;#"]?(?=([\w-]+)){_NAMED_IN_URL}(.+)', re.IGNORECASE).match


def _is_in_url(match: str) -> bool:
    """Tell whether a part of a URL has a parameter with a secret that is not masked."""
    found = map(_named_in_url, _split_url(match))
    return any(each is not None and not _is_harmless(each[1], each[2]) for each in found)


def _is_harmless(name: str, value: str) -> object:
    return is_placeholder(value) or (name.lower() in ("pwd", "passwd") and _is_path(value))


_PROSE_NAMES: Final = "(?:[a-z0-9]+[_-])*(?:password|passwd|passphrase|pwd)"
_PROSE_KEYS: Final = (
    "(?:api[_-]?key|secret[_-]?key|secret[_-]?access[_-]?key|client[_-]?secret|phpsessid|jsessionid"
    "|(?:access|api|auth|bearer|bot|deploy|private|refresh|session)[_-]?token)"
)
_is_state = re.compile(
    r"changed?|denied|empty|enabled|disabled|encrypted|expired|expires|failed|failure|false|hashed"
    r"|incorrect|invalid|login|missing|mismatch|never|none|null|only|optional|outdated|prompt"
    r"|required|reset|same|string|success|true|undefined|unchanged|unknown|unset|updated|valid"
    r"|verified|weak|wrong",
    re.IGNORECASE,
).fullmatch
_is_prose = re.compile(
    r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*"  # Words, of any language.
    r"|[a-z_][\w.-]*[:=].*|\d{4}-\d\d-\d\d.*|\d\d?:\d\d.*"  # The next field, a date, a time.
    r"|[^\s@]+@[\w-]+(?:\.[\w-]+)+|[a-z][a-z0-9+.-]*://.*",  # An address of mail, a URL.
    re.IGNORECASE,
).fullmatch
_split_line = re.compile(r"[:=]").split


def _line_value(match: str) -> tuple[str, bool]:
    """The value of `name: value` or `name=value`, and whether it stands right behind a `=`."""
    name, value = _split_line(match, 1)
    is_close = match[len(name)] == "=" and not name.endswith(" ") and not value.startswith(" ")
    return value.strip(" '()[]").rstrip(".,;!?"), is_close


def _is_password_line(match: str) -> bool:
    """Tell whether a password follows its name in a text, and no prose about passwords."""
    value, is_close = _line_value(match)
    if len(value) < _LINE_PASSWORD_CHARS_MIN or is_placeholder(value) or _is_path(value):
        return False
    return not (_is_state(value) if is_close else _is_prose(value))


def _is_secret_line(match: str) -> bool:
    """Tell whether what follows the name of a token in a text may be one: letters and digits."""
    value, _ = _line_value(match)
    has_both = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    return has_both and not is_placeholder(value)


def _is_cookie_line(match: str) -> bool:
    """Tell whether a header of cookies has a value that is long enough to be a secret."""
    values = (pair.partition("=")[2].strip() for pair in match.partition(":")[2].split(";"))
    return any(len(value) >= _COOKIE_CHARS_MIN and not is_placeholder(value) for value in values)


_LINE_PASSWORD_CHARS_MIN: Final = 4
_COOKIE_CHARS_MIN: Final = 8
LINE_RULES: Final = frozenset({"password-line", "secret-line", "cookie-line"})
"""Rules of a name and its value in prose: in a short text, too, nothing else is masked."""

PATTERN_RULES: Final[tuple[PatternRule, ...]] = (
    *starmap(PatternRule, re.findall(r"(?m)^(\S+) +(.+)$", _TOKENS)),
    # Headers and URLs. The value may be the whole text, so the header's name is not required.
    # Without a digit it is prose: "Bearer authentication-is-required".
    _checked("bearer-header", r"(?i)\bbearer +[0-9a-z._~+/-]{20,}", re.compile("[0-9]").search),
    _checked("basic-header", r"(?i)\bbasic +[0-9a-z+/]{6,}={0,2}", _is_basic),
    _checked(
        "url-password",
        r"(?i)\b[a-z][a-z0-9+.-]{1,20}://[^\s\"/?#@:]*:[^\s\"/?#@]+@",
        lambda match: not is_placeholder(match.rpartition("@")[0].rpartition(":")[2]),
    ),
    _checked(
        "url-secret",
        rf"(?i)(?:[?&;#\"]|{_ENCODED_DELIMITER}){_NAMED_IN_URL}[^\s\"&;#]+",
        _is_in_url,
    ),
    _checked(
        "authorization",
        r"(?i)\bauthorization['\" ]{0,3}[:=][ '\"]{0,3}(?:token|api-?key|key|negotiate)[ =:]+"
        r"[^\s'\",;]{6,}",
        lambda match: not is_placeholder(re.split("[ =:]", match)[-1]),
    ),
    _checked("password-line", rf"(?i)\b{_PROSE_NAMES} ?[:=] ?[^\s\"&]{{4,}}", _is_password_line),
    _checked("secret-line", rf"(?i)\b{_PROSE_KEYS} ?[:=] ?[^\s\"',;&]{{8,}}", _is_secret_line),
    _checked(
        "cookie-line",
        r"(?i)\b(?:set-)?cookie ?: ?(?:[^\s=;\"]{1,64}=[^\s;\"]*(?:; ?)?)+",
        _is_cookie_line,
    ),
    PatternRule("card-number", CARD_PATTERN, has_card_number),
)

RULE_NAMES: Final = frozenset(
    [*(each.rule for each in KEY_RULES), *(each.rule for each in PATTERN_RULES)]
)


_NAMES_BESIDE: Final = frozenset(
    (
        "name",
        "key",
        "path",
        "attribute",
        "code",
        "field",
        "option",
        "parameter",
        "setting",
        "slug",
        "variable",
    )
)


def is_value_key(key: str) -> bool:
    """Tell whether a key names nothing but a value: `value`, `new_value`, `defaultValues`."""
    return key.lower().endswith(("value", "values"))


def is_name_key(key: str) -> bool:
    """Tell whether a text of this key may name the value beside it, as in a row of settings."""
    return key.lower() in _NAMES_BESIDE


def names_by_row(changes: Iterable[Any]) -> dict[str, list[str]]:
    """The texts of `/row/name`, `/row/key` and the like, by their row: `/row`."""
    found: dict[str, list[str]] = {}
    for change in changes:
        path = change.get("path") if isinstance(change, Mapping) else None
        row, _, key = path.rpartition("/") if isinstance(path, str) else ("", "", "")
        if is_name_key(key):
            texts = [change.get(side) for side in ("before", "after")]
            found.setdefault(row, []).extend(text for text in texts if isinstance(text, str))
    return found
