"""What a secret looks like: the tables of key names and of well-known tokens.

A pattern stands here when its format says by itself that it is a secret: a prefix that its issuer
chose for that purpose, or a place (a header, a URL) where only secrets stand. A long random-looking
text is no secret for that alone. Identifiers of secrets pass: an AWS `accessKeyId` (AKIA…), a
Twilio `SK…` and a public key name something and open nothing.

All patterns are RE2 syntax, searched for anywhere in a text, without `^` and `$`: a text stands
between quotes in JSON, so what is found in a text is found in the JSON around it as well, and one
search over an event's bytes can say that none of its texts has any (see `scanning`).
"""

import base64
import binascii
from collections.abc import Callable
from typing import Final, NamedTuple

from ledger_core.event.secrets.luhn import CARD_PATTERN, has_card_number
from ledger_core.event.secrets.re2_sets import Pattern


class KeyRule(NamedTuple):
    """Names whose values are secret. The words of a name may be joined by separators or not.

    `endings` may have other words before them, `names` are the whole key; digits and separators
    after either don't count. `of_texts`: only when the value is a text, or a list of them.
    """

    rule: str
    endings: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    of_texts: bool = False


class PatternRule(NamedTuple):
    """A text that a pattern is found in and that as a whole passes the check, if there is one."""

    rule: str
    pattern: str
    is_secret: Callable[[str], bool] | None = None


KEY_RULES: Final = (
    KeyRule(
        "password",
        endings=("pass word", "pass wd", "pass phrase", "pass code", "pwd"),
    ),
    KeyRule("password", names=("pass", "pw"), of_texts=True),
    KeyRule("private-key", endings=("private key", "private key pem", "signing key")),
    KeyRule(
        "api-key",
        endings=(
            "api key",
            "api secret key",
            "secret key",
            "secret access key",
            "account key",
            "shared access key",
            "subscription key",
        ),
    ),
    KeyRule("secret", endings=("secret", "secret value", "seed phrase")),
    KeyRule(
        "token",
        endings=(
            "access token",
            "api token",
            "auth token",
            "authentication token",
            "bearer token",
            "bot token",
            "deploy token",
            "id token",
            "job token",
            "oauth token",
            "private token",
            "refresh token",
            "registration token",
            "reset token",
            "security token",
            "session token",
            "vault token",
        ),
        names=("token", "jwt", "bearer"),
    ),
    KeyRule(
        "one-time-code",
        endings=("mfa code", "otp code", "verification code", "recovery code", "recovery codes"),
        names=("otp", "totp", "backup codes"),
    ),
    KeyRule("authorization", endings=("authorization",), of_texts=True),
    KeyRule("cookie", endings=("cookie", "cookies"), of_texts=True),
    KeyRule(
        "card-number",
        endings=("card number", "card no", "cc number"),
    ),
    KeyRule(
        "card-code",
        endings=("cvv", "cvc", "card pin", "card security code"),
        names=("pin",),
    ),
)


def _is_bearer(match: str) -> bool:
    # Without a digit it is prose: "Bearer authentication-is-required".
    return any(character.isdigit() for character in match)


def _is_basic(match: str) -> bool:
    """Tell that what follows `Basic` is base64 of name, colon and password (RFC 7617 §2)."""
    encoded = match.split()[-1]
    try:
        decoded = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except binascii.Error:
        return False
    _, colon, password = decoded.partition(b":")
    return bool(colon and password)


_PLACEHOLDER: Final = Pattern(
    r"(?i)masked\.[a-z0-9-]+"
    r"|[^\pL\pN]*(?:x{3,}|[*•.]*|redacted|masked|hidden|filtered|removed|omitted|none|null|undefined"
    r"|hidden_due_to_security_reasons)[^\pL\pN]*"
    r"|\$\{?[a-z0-9_.]+\}?|\{\{? ?[a-z0-9_.]+ ?\}?\}|<[a-z0-9_ -]+>|%[a-z0-9_]+%"
)


def is_placeholder(text: str) -> bool:
    """Tell that a text stands where a secret was or would be: `***`, `[REDACTED]`, `${TOKEN}`."""
    return _PLACEHOLDER.is_whole(text)


def _has_url_password(match: str) -> bool:
    return not is_placeholder(match.rpartition("@")[0].rpartition(":")[2])


def _has_parameter(match: str) -> bool:
    return not is_placeholder(match.partition("=")[2])


def _checked(rule: str, pattern: str, is_secret: Callable[[str], bool]) -> PatternRule:
    """A rule whose check is made of each place that the pattern finds."""
    found_in = Pattern(pattern).found_in
    return PatternRule(rule, pattern, lambda text: any(map(is_secret, found_in(text))))


_WORD: Final = r"[0-9A-Za-z_-]"

PATTERN_RULES: Final = (
    PatternRule("pem-private-key", r"-----BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----"),
    PatternRule("age-key", r"\bAGE-SECRET-KEY-1[0-9A-Z]{58}\b"),
    PatternRule("putty-private-key", r"\bPuTTY-User-Key-File-[0-9]"),
    PatternRule("ledger-token", r"\bwl_[0-9A-Za-z_-]{43}"),
    PatternRule("note-private-key", r"\bPRIVATE\+KEY\+"),
    PatternRule(
        "jwt",
        r"\bey[IJ][0-9A-Za-z_-]{10,}\.ey[IJ][0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{16,}"
        r"|\beyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]*\.[0-9A-Za-z_-]{16,}\.[0-9A-Za-z_-]+\.[0-9A-Za-z_-]{16,}",
    ),
    # Clouds.
    PatternRule("aws-session-token", r"\b(?:FwoGZXIvYXdz|IQoJb3JpZ2lu)[0-9A-Za-z/+=]{64,}"),
    PatternRule(
        "aws-secret-key",
        r"(?i)aws_?secret(?:_?access)?_?key[\"' ]{0,3}[:=][\"' ]{0,3}[0-9a-z/+]{40}",
    ),
    PatternRule("aws-bedrock-key", r"\bABSK[0-9A-Za-z+/]{100,}"),
    PatternRule("google-api-key", rf"\bAIza{_WORD}{{35}}"),
    PatternRule(
        "google-oauth", rf"\b(?:ya29\.{_WORD}{{20,}}|GOCSPX-{_WORD}{{28}}|1//0{_WORD}{{30,}})"
    ),
    PatternRule("azure-client-secret", r"\b[0-9A-Za-z_~.]{3}[0-9]Q~[0-9A-Za-z_~.-]{31,34}"),
    PatternRule("azure-account-key", r"(?i)(?:account|shared ?access)key=[0-9a-z+/]{43,86}={0,2}"),
    PatternRule("digitalocean-token", r"\bdo[por]_v1_[0-9a-f]{64}\b"),
    PatternRule("heroku-key", rf"\bHRKU-{_WORD}{{32,}}"),
    # Code hosts and registries.
    PatternRule("github-token", r"\bgh[pousr]_[0-9A-Za-z]{36,}"),
    PatternRule("github-token", r"\bgithub_pat_[0-9A-Za-z]{22}_[0-9A-Za-z]{59}"),
    PatternRule(
        "gitlab-token",
        rf"\b(?:glpat|gldt|glrt|glrtr|glcbt|glptt|glft|glimt|glagent|glsoat|gloas|glffct)-{_WORD}{{20,}}",
    ),
    PatternRule("atlassian-token", rf"\b(?:ATATT3|ATCTT3|ATBB|BBDC-){_WORD}{{28,}}"),
    PatternRule("npm-token", r"\bnpm_[0-9A-Za-z]{36}\b"),
    PatternRule("pypi-token", rf"\bpypi-AgE{_WORD}{{50,}}"),
    PatternRule("rubygems-token", r"\brubygems_[0-9a-f]{48}\b"),
    PatternRule("crates-token", r"\bcio[0-9A-Za-z]{32}\b"),
    PatternRule("docker-token", rf"\bdckr_[op]at_{_WORD}{{27,}}"),
    PatternRule("nuget-key", r"\boy2[a-z0-9]{43}\b"),
    PatternRule("terraform-token", rf"\b[0-9A-Za-z]{{14}}\.atlasv1\.{_WORD}{{60,}}"),
    PatternRule("vault-token", rf"\bhv[sbr]\.{_WORD}{{24,}}"),
    PatternRule("huggingface-token", r"\bhf_[A-Za-z]{34}\b"),
    # Chat.
    PatternRule("slack-token", r"\bxox[abeoprs]-[0-9A-Za-z-]{10,}|\bxapp-[0-9]-[0-9A-Za-z-]{10,}"),
    PatternRule("slack-token", r"\bxoxe\.xox[bp]-[0-9]-[0-9A-Za-z]{20,}"),
    PatternRule(
        "chat-webhook",
        r"\bhooks\.slack\.com/(?:services|workflows|triggers)/[0-9A-Z]{6,}/[0-9A-Za-z/]{12,}",
    ),
    PatternRule(
        "chat-webhook", rf"\bdiscord(?:app)?\.com/api/webhooks/[0-9]{{17,20}}/{_WORD}{{60,}}"
    ),
    PatternRule("chat-webhook", r"\bwebhook\.office\.com/webhookb2/[0-9a-f-]{36}"),
    PatternRule("discord-token", rf"\b[MNO][0-9A-Za-z]{{23,25}}\.{_WORD}{{6}}\.{_WORD}{{27,}}"),
    PatternRule("telegram-token", rf"\b[0-9]{{8,10}}:AA{_WORD}{{33}}"),
    # Payment, mail, models, monitoring.
    PatternRule(
        "stripe-key", r"\b(?:[sr]k_(?:live|test)_[0-9A-Za-z]{16,}|whsec_[0-9A-Za-z+/]{24,})"
    ),
    PatternRule("square-token", rf"\bsq0(?:atp|csp)-{_WORD}{{22,}}"),
    PatternRule(
        "paypal-token", r"\baccess_token\$(?:production|sandbox)\$[0-9a-z]{16}\$[0-9a-f]{32}"
    ),
    PatternRule("shopify-token", r"\bshp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}\b"),
    PatternRule("sendgrid-key", rf"\bSG\.{_WORD}{{22}}\.{_WORD}{{43}}"),
    PatternRule("mail-key", r"\bkey-[0-9a-f]{32}\b|\b[0-9a-f]{32}-us[0-9]{1,2}\b"),
    PatternRule("mail-key", r"\bxkeysib-[0-9a-f]{64}-[0-9A-Za-z]{16}\b"),
    PatternRule(
        "openai-key", rf"\bsk-(?:(?:proj|svcacct|admin)-)?{_WORD}{{16,}}T3BlbkFJ{_WORD}{{16,}}"
    ),
    PatternRule("anthropic-key", rf"\bsk-ant-[a-z]+[0-9]{{2}}-{_WORD}{{80,}}"),
    PatternRule("databricks-token", r"\bdapi[0-9a-f]{32}\b"),
    PatternRule(
        "grafana-token", r"\bglsa_[0-9A-Za-z]{32}_[0-9a-f]{8}\b|\bglc_eyJ[0-9A-Za-z+/=]{40,}"
    ),
    PatternRule("newrelic-key", r"\bNR(?:AK|JS|RA)-[0-9A-Za-z]{19,}"),
    PatternRule("sentry-token", r"\bsntry[su]_[0-9A-Za-z+/=_]{40,}"),
    PatternRule("linear-key", r"\blin_(?:api|oauth)_[0-9A-Za-z]{40,}"),
    PatternRule("postman-key", r"\bPMAK-[0-9a-f]{24}-[0-9a-f]{34}\b"),
    # Headers and URLs. The value alone may be the text, so no header's name is asked for.
    _checked("bearer-header", r"(?i)\bbearer +[0-9a-z._~+/-]{20,}", _is_bearer),
    _checked("basic-header", r"(?i)\bbasic +[0-9a-z+/]{6,}={0,2}", _is_basic),
    _checked(
        "url-password",
        r"(?i)\b[a-z][a-z0-9+.-]{1,20}://[^\s\"/?#@:]*:[^\s\"/?#@]+@",
        _has_url_password,
    ),
    _checked(
        "url-secret",
        r"(?i)[?&;#\"](?:access_?token|refresh_?token|id_?token|auth_?token|token|api_?key|apikey"
        r"|pass(?:word|wd)?|pwd|secret|client_?secret|sig|signature|private_?token"
        r"|x-(?:amz|goog|oss)-signature|x-amz-security-token|security-token)=[^\s\"&;#]+",
        _has_parameter,
    ),
    PatternRule("card-number", CARD_PATTERN, has_card_number),
)
