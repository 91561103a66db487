"""The parsers of what others send, each as a function of any bytes.

A function returns for bytes of the format, and raises MalformedError, or an error that derives from
it, for others. Whatever else it raises is a finding: another error, or an AssertionError where what
was parsed is not written back as the same bytes.
"""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from ledger.service.http.msgpack_body import decode_msgpack
from ledger.service.http.problems import ProblemError
from ledger.service.otlp_protobuf import decode_message, split_records
from ledger_client.collect.importers.windows import parse_xml
from ledger_client.collect.syslog.message import parse_message
from ledger_client.integrations.proxies import parse_node
from ledger_core.event.canonical import format_leaf, parse_leaf
from ledger_core.event.reader import Reader
from ledger_core.event.times import format_time, parse_time
from ledger_core.evidence.archive import Archive
from ledger_core.evidence.verifier import check_evidence
from ledger_core.query.ast import format_query
from ledger_core.query.parser import parse_query
from ledger_core.tlog.checkpoint import parse_signed_checkpoint
from ledger_core.tlog.cosignature import parse_verifier
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.log_list import parse_log_list
from ledger_core.tlog.mirror import (
    UploadDecoder,
    encode_package,
    encode_upload,
    format_mirror_info,
    parse_mirror_info,
)
from ledger_core.tlog.multi_proof import format_multi_proof, parse_multi_proof
from ledger_core.tlog.note import format_note, parse_note
from ledger_core.tlog.policy import parse_policy
from ledger_core.tlog.proof import (
    format_proof,
    format_range_proof,
    parse_proof,
    parse_range_proof,
)
from ledger_core.tlog.signed_subtree import format_sign_subtree, parse_sign_subtree
from ledger_core.tlog.tile import decode_bundle, encode_bundle, parse_tile_path
from ledger_core.tlog.witness import (
    format_add_checkpoint,
    format_cosignatures,
    format_size_answer,
    parse_add_checkpoint,
    parse_cosignatures,
    parse_size_answer,
)

ID: Final = "01936f2e-7c00-7000-8000-000000000000"
LEAVES_MAX: Final = 1_000
_READER: Final = Reader(lambda: ID, lambda: 0)
_POLICY: Final = parse_policy(
    b"log example.com/audit+72b50a8f+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop\nquorum none\n"
)


def _note(data: bytes) -> None:
    assert format_note(parse_note(data)).encode() == data


def _checkpoint(data: bytes) -> None:
    assert parse_signed_checkpoint(data).note.encode() == data


def _proof(data: bytes) -> None:
    assert format_proof(parse_proof(data)).encode() == data


def _range_proof(data: bytes) -> None:
    assert format_range_proof(parse_range_proof(data)).encode() == data


def _multi_proof(data: bytes) -> None:
    assert format_multi_proof(parse_multi_proof(data, leaves_max=LEAVES_MAX)).encode() == data


def _policy(data: bytes) -> None:
    assert parse_policy(data) == parse_policy(data)


def _verifier_key(data: bytes) -> None:
    text = data.decode("latin-1")
    assert str(parse_verifier(text)) == text


def _tile_path(data: bytes) -> None:
    text = data.decode("latin-1")
    assert parse_tile_path(text).path == text


def _bundle(data: bytes) -> None:
    assert encode_bundle(decode_bundle(data)) == data


def _add_checkpoint(data: bytes) -> None:
    assert format_add_checkpoint(parse_add_checkpoint(data)) == data


def _witness_answer(data: bytes) -> None:
    assert format_cosignatures(parse_cosignatures(data)).encode() == data


def _witness_size(data: bytes) -> None:
    assert format_size_answer(parse_size_answer(data)).encode() == data


def _add_entries(data: bytes) -> None:
    decoder = UploadDecoder()
    packages = list(decoder.feed(data))
    if decoder.upload is None:
        raise MalformedError("the beginning is cut short")
    again = b"".join([encode_upload(decoder.upload), *map(encode_package, packages)])
    assert again == data[: decoder.decoded_bytes]
    # The pieces in which a body arrives change nothing.
    in_pieces = UploadDecoder()
    found = [each for at in range(0, len(data), 7) for each in in_pieces.feed(data[at : at + 7])]
    assert found == packages


def _mirror_info(data: bytes) -> None:
    assert format_mirror_info(parse_mirror_info(data)).encode() == data


def _sign_subtree(data: bytes) -> None:
    assert format_sign_subtree(parse_sign_subtree(data)) == data


def _log_list(data: bytes) -> None:
    parse_log_list(data)


def _query(data: bytes) -> None:
    query = parse_query(data.decode(errors="replace"))
    assert parse_query(format_query(query), is_long=True) == query


def _event(data: bytes) -> None:
    read = _READER.read(data)
    again = _READER.read(read.event_json)
    assert (again.event_json, again.filled) == (read.event_json, ())
    leaf = format_leaf(event_json=read.event_json, by="fuzz", received_time=format_time(0))
    assert parse_leaf(leaf).event_json == read.event_json


def _leaf(data: bytes) -> None:
    leaf = parse_leaf(data)
    received = leaf.received
    assert data == format_leaf(
        event_json=leaf.event_json, by=received.by, received_time=received.time
    )


def _time(data: bytes) -> None:
    unix_us = parse_time(data.decode("latin-1"))
    assert parse_time(format_time(unix_us)) == unix_us


def _msgpack(data: bytes) -> None:
    try:
        value = decode_msgpack(data)
    except ProblemError:
        return
    if isinstance(value, dict):
        assert _READER.read(_READER.read_object(value).event_json).filled == ()


def _otlp(data: bytes) -> None:
    msgspec.json.encode(decode_message(data, "RECORD"))
    with suppress(MalformedError):  # a record is no request
        list(split_records(data))


def _syslog(data: bytes) -> None:
    assert isinstance(parse_message(data).text, str)


def _windows_xml(data: bytes) -> None:
    parse_xml(data.decode(errors="replace"))


def _forwarded_node(data: bytes) -> None:
    parse_node(data.decode("latin-1"))


def _zip(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".zip", dir="/dev/shm") as file:
        file.write(data)
        file.flush()
        with Archive(Path(file.name)) as archive:
            for name in archive.names:
                archive.sha256(name, LEAVES_MAX)
        with suppress(MalformedError, VerificationError):  # a .zip is not evidence yet
            check_evidence(Path(file.name), _POLICY)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "add-checkpoint": _add_checkpoint,
    "add-entries": _add_entries,
    "bundle": _bundle,
    "checkpoint": _checkpoint,
    "event": _event,
    "forwarded-node": _forwarded_node,
    "leaf": _leaf,
    "log-list": _log_list,
    "mirror-info": _mirror_info,
    "msgpack": _msgpack,
    "multi-proof": _multi_proof,
    "note": _note,
    "otlp": _otlp,
    "policy": _policy,
    "proof": _proof,
    "query": _query,
    "range-proof": _range_proof,
    "sign-subtree": _sign_subtree,
    "syslog": _syslog,
    "tile-path": _tile_path,
    "time": _time,
    "verifier-key": _verifier_key,
    "windows-xml": _windows_xml,
    "witness-answer": _witness_answer,
    "witness-size": _witness_size,
    "zip": _zip,
}


def parse_any(name: str, data: bytes) -> bool:
    """Give bytes to a target: whether they are of its format. Raises: what is a finding."""
    try:
        TARGETS[name](data)
    except MalformedError:
        return False
    return True
