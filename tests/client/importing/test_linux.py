"""The records of a Linux machine: auditd's lines and the journal."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_client.collect.importers import load_format, read_records
from ledger_client.collect.importers.auditd import EVENTS_OPEN_MAX, group_lines, parse_event
from ledger_core.event.model import EventError

LOG = Path(__file__).parent / "vectors" / "audit.log"
AUDITD = load_format("auditd")
BYTES_MAX = 1 << 20


def events_of(path: Path) -> list[dict[str, Any]]:
    records = read_records(path, wrappers=AUDITD.wrappers, lines=AUDITD.lines)
    return [event for record in records for event in AUDITD.map(record.raw)]


def line(serial: int, of_type: str = "SYSCALL") -> bytes:
    return b"type=%b msg=audit(1364481363.243:%d): a=b" % (of_type.encode(), serial)


def test_the_lines_of_an_event_say_who_did_what_to_what_and_how_it_ended() -> None:
    events = events_of(LOG)
    assert [
        (
            event["action"],
            event["actor"]["id"],
            [target["id"] for target in event.get("targets", [])],
            event["outcome"],
            event.get("source", {}).get("ip"),
        )
        for event in events
    ] == [
        (
            "auditd.syscall.sshd_config",
            "1000",
            ["/etc/ssh/sshd_config", "/bin/cat"],
            "denied",
            None,
        ),
        ("auditd.daemon_start", "1000", [], "success", None),
        ("auditd.user_auth", "1000", ["root", "/bin/su"], "failure", None),
        ("auditd.avc", "0", ["/usr/bin/certwatch"], "denied", None),
        ("auditd.user_login", "root", ["root", "/usr/sbin/sshd"], "failure", "192.0.2.9"),
    ]
    assert [event["time"] for event in events][::4] == [
        "2013-03-28T14:36:03.243000Z",
        "2023-11-14T22:13:20.001000Z",
    ]
    assert events[0]["reason"] == "cat /etc/ssh/sshd_config"
    assert events[4]["context"]["host"] == "web-1"
    kept = [text for event in events for text in event["context"]["original"]["lines"]]
    assert kept == LOG.read_text(encoding="utf-8").rstrip().split("\n")


def test_interleaved_lines_come_together_and_an_end_ends_an_event() -> None:
    lines = [line(1), line(2), line(1, "PATH"), b"junk", line(1, "EOE"), line(2, "PATH"), line(1)]
    groups = list(group_lines(enumerate(lines, 1), BYTES_MAX))
    assert groups == [
        (4, [b"junk"]),
        (1, [line(1), line(1, "PATH"), line(1, "EOE")]),
        (2, [line(2), line(2, "PATH")]),
        (7, [line(1)]),
    ]


def test_no_more_events_are_held_open_than_the_limit() -> None:
    taken = 0

    def lines() -> Any:
        nonlocal taken
        for serial in range(1_000):
            taken += 1
            yield serial, line(serial)

    for count, _ in enumerate(group_lines(lines(), BYTES_MAX)):
        assert taken - count <= EVENTS_OPEN_MAX + 1


def test_a_line_that_is_not_auditds_is_refused_with_a_reason(tmp_path: Path) -> None:
    bad = b"type=X msg=audit(1:2): a=b"
    (tmp_path / "log").write_bytes(b"\n".join((b"junk", bad, line(1))))
    raws = [record.raw for record in read_records(tmp_path / "log", lines="auditd")]
    assert [json.loads(raw)["lines"] for raw in raws] == [
        ["junk"],
        [bad.decode()],
        [line(1).decode()],
    ]
    for raw in raws[:2]:
        with pytest.raises(EventError, match="action: the record has none"):
            AUDITD.map(raw)


@given(st.lists(st.text(max_size=60), max_size=4))
def test_no_text_makes_the_parser_fail(lines: list[str]) -> None:
    parse_event(lines)
    parse_event([f"type=SYSCALL msg=audit(1364481363.243:1): {text}" for text in lines])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("a=1 b=2", {"a": "1", "b": "2"}),
        ('comm="x y" exe=2F62696E2F61', {"comm": "x y", "exe": "/bin/a"}),
        ("a0=2F62 inode=4142", {"a0": "2F62", "inode": "4142"}),
        ("key=(null) tty=(none) addr=? ses=4294967295", {}),
        ("pid=1 msg='op=x pid=2 res=success'", {"pid": "1", "op": "x", "res": "success"}),
        ('auid=1000\x1dAUID="jo"', {"auid": "1000", "AUID": "jo"}),
        ("avc:  denied  { read } for  pid=1", {"pid": "1", "text": "avc: denied { read } for"}),
    ],
)
def test_values_are_read_in_each_form(fields: str, expected: dict[str, str]) -> None:
    event = parse_event([f"type=SYSCALL msg=audit(1364481363.243:1): {fields}"])
    assert event is not None
    assert event["records"] == [{"type": "SYSCALL", **expected}]


def map_lines(*lines: str) -> dict[str, Any]:
    (event,) = AUDITD.map(json.dumps({"lines": list(lines)}).encode())
    return event


ID = "msg=audit(1700000000.001:7):"
SYSCALL = f'type=SYSCALL {ID} syscall=42 success=yes exit=0 auid=1000 uid=1000 comm="a" '


def test_two_hosts_with_one_time_and_serial_are_two_events() -> None:
    lines = [b"node=web-%d " % host + line(1, kind) for kind in ("A", "B") for host in (1, 2)]
    groups = [group for _, group in group_lines(enumerate(lines), BYTES_MAX)]
    assert groups == [lines[::2], lines[1::2]]


@pytest.mark.parametrize(
    ("saddr", "target"),
    [
        ("0200016BC00002090000000000000000", "192.0.2.9:363"),
        ("0A0001BB0000000020010DB800000000000000000000000100000000", "2001:db8::1:443"),
        ("01002F7661722F72756E2F6E7363642F736F636B657400", "/var/run/nscd/socket"),
    ],
)
def test_the_address_of_a_connect_is_a_target_and_not_the_source(saddr: str, target: str) -> None:
    event = map_lines(SYSCALL, f"type=SOCKADDR {ID} saddr={saddr}")
    assert {"id": target, "type": "address"} in event["targets"]
    assert "ip" not in event["source"]


def test_eperm_is_denied() -> None:
    event = map_lines(f"type=SYSCALL {ID} syscall=90 success=no exit=-1 auid=1000 uid=1000")
    assert event["outcome"] == "denied"


def test_a_rule_with_two_keys_names_both() -> None:
    event = map_lines(SYSCALL + "key=" + b"execve\1root".hex().upper())
    assert event["action"] == "auditd.syscall.execve"
    assert event["context"]["keys"] == ["execve", "root"]


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ('apparmor="DENIED" operation="open" profile="a" name="/x" comm="a"', "denied"),
        ('apparmor="ALLOWED" operation="open" profile="a" name="/x" comm="a"', "unknown"),
        ('avc:  denied  { read } for  pid=1 comm="a" permissive=0', "denied"),
        ('avc:  denied  { read } for  pid=1 comm="a" permissive=1', "unknown"),
    ],
)
def test_only_what_was_refused_is_denied(fields: str, outcome: str) -> None:
    assert map_lines(f"type=AVC {ID} {fields}")["outcome"] == outcome


def test_the_command_of_sudo_and_the_arguments_of_execve_are_used() -> None:
    command = b"cat /etc/shadow".hex().upper()
    event = map_lines(
        f"type=USER_CMD {ID} pid=1 uid=1000 auid=1000 msg='cwd=\"/root\" cmd={command} res=success'"
    )
    assert event["reason"] == event["context"]["command"] == "cat /etc/shadow"
    event = map_lines(SYSCALL, f'type=EXECVE {ID} argc=3 a0="rm" a1="-rf" a2=612062')
    assert event["reason"] == "rm -rf 'a b'"


@pytest.mark.parametrize(
    ("fields", "who"),
    [
        ("pid=1 uid=0 auid=4294967295 msg='auid=1000'", "0"),
        ("pid=1 uid=0 auid=1001 msg='AUID=\"root\" type=SYSCALL'", "1001"),
        ('pid=1 uid=0 auid=1001 msg=\'AUID="root"\'\x1dUID="root" AUID="jo"', "jo"),
        ('pid=1 uid=1000 auid=4294967295 msg=\'UID="root"\'\x1dUID="app" AUID="unset"', "app"),
    ],
)
def test_a_message_of_a_program_says_nothing_of_who_the_kernel_saw(fields: str, who: str) -> None:
    event = map_lines(f"type=USER {ID} {fields}")
    assert event["actor"]["id"] == who
    assert event["action"] == "auditd.user"


def test_a_number_of_a_user_is_that_of_its_host() -> None:
    line_of_web = f"node=web-1 type=SYSCALL {ID} success=yes exit=0 auid=1000 uid=1000 euid=0"
    actor = map_lines(line_of_web)["actor"]
    assert (actor["id"], actor["on_behalf_of"]["id"]) == ("1000@web-1", "0@web-1")
    named = map_lines(line_of_web + '\x1dAUID="jo" UID="jo" EUID="root"')["actor"]
    assert (named["id"], named["on_behalf_of"]["id"]) == ("jo", "root")
    alone = map_lines(f"type=SYSCALL {ID} success=yes exit=0 auid=1000 uid=0 euid=0")["actor"]
    assert (alone["id"], alone["on_behalf_of"]["id"]) == ("1000", "0")


@pytest.mark.parametrize(
    ("parts", "argument"),
    [
        # The second part ends inside the letter ü.
        (["a2_len=9", "a2[0]=6563686F20", "a2[1]=22C3", "a2[2]=BC22"], """'echo "ü"'"""),
        (["a2_len=10", 'a2[0]="3005"', 'a2[1]="12AB"'], "300512AB"),
    ],
    ids=["hexadecimal", "quoted"],
)
def test_a_long_argument_is_put_together_from_its_parts(parts: list[str], argument: str) -> None:
    begin = f'type=EXECVE {ID} argc=3 a0="sh" a1="-c"'
    one = [f"{begin} {' '.join(parts)}"]
    several = [f"{begin} {parts[0]}", *(f"type=EXECVE {ID} {part}" for part in parts[1:])]
    for lines in (one, several):
        assert map_lines(SYSCALL, *lines)["reason"] == f"sh -c {argument}"


def test_a_relative_path_is_joined_with_the_working_directory() -> None:
    event = map_lines(
        SYSCALL,
        f'type=CWD {ID} cwd="/home/jo"',
        f'type=PATH {ID} item=0 name="../secret" nametype=NORMAL',
        f'type=PATH {ID} item=1 name="/etc/passwd" nametype=NORMAL',
    )
    assert [each["id"] for each in event["targets"]] == ["/home/secret", "/etc/passwd"]


ENTRY = {
    "__CURSOR": "s=1;i=2",
    "__REALTIME_TIMESTAMP": "1790000000123456",
    "_HOSTNAME": "web-1",
    "_UID": "0",
    "_PID": "812",
    "_SYSTEMD_UNIT": "ssh.service",
    "PRIORITY": "6",
    "SYSLOG_IDENTIFIER": "sshd",
    "MESSAGE": "Accepted publickey for jo",
}


def test_an_entry_of_the_journal_says_who_and_what() -> None:
    (event,) = load_format("journald").map(json.dumps(ENTRY).encode())
    del event["id"], event["context"]["original"]
    assert event == {
        "time": "2026-09-21T14:13:20.123456Z",
        "actor": {"id": "0@web-1", "type": "user"},
        "action": "journal.sshd",
        "source": {"service": "sshd"},
        "outcome": "unknown",
        "reason": "Accepted publickey for jo",
        "context": {"host": "web-1", "unit": "ssh.service", "priority": "6", "process": "812"},
    }


def test_who_logged_in_is_the_actor_and_what_the_manager_did_has_an_outcome() -> None:
    entry = {**ENTRY, "_AUDIT_LOGINUID": "1000", "_AUDIT_SESSION": "3", "UNIT": "a.service"}
    entry["_PID"] = "1"
    (event,) = load_format("journald").map(json.dumps({**entry, "JOB_RESULT": "failed"}).encode())
    assert event["actor"] == {"id": "1000@web-1", "type": "user", "session": "3"}
    assert event["targets"] == [{"id": "a.service", "type": "unit"}]
    assert event["outcome"] == "failure"
    octets = list(b"\x1b[1mf\xc3\xbcr\xff")
    kernel = {"_HOSTNAME": "web-1", "SYSLOG_IDENTIFIER": "kernel", "MESSAGE": octets}
    (event,) = load_format("journald", "keep").map(json.dumps(kernel).encode())
    assert event["actor"] == {"id": "web-1", "type": "host"}
    assert event["reason"] == "\x1b[1mfür\\xff"
