"""Verifies a bundle of evidence with hashlib and PyNaCl, and with no code of the ledger.

    python verify_evidence.py BUNDLE.zip POLICY

Written from docs/formats.md, sections 1, 2 and 4, for the second edition and Ed25519 keys. Half of
it is other people's formats: policies, signed notes, three proofs of a Merkle tree, RFC 8785. It
does not evaluate the query, which it prints, nor date events by the heads in `heads.jsonl`, nor
look at bytes of the .zip between its files.
"""

import base64
import hashlib
import json
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

from nacl.signing import VerifyKey

LOG_KEY, WITNESS_KEY, SALT_BYTES, BYTES_MAX = 1, 4, 32, 1 << 30
UNICODE_PATH, STREAM, ZIP64 = 0x7075, 8, 0xFFFFFFFF
TEXTS = {"README.txt", "index.html", "query.txt", "policy"}
PROOF = "statement.tlog-proof"
FIXED = {*TEXTS, PROOF, "checkpoint", "heads.jsonl", "statement.leaf.json", "manifest.json"}


def check(is_true: object, reason: str) -> None:
    if not is_true:
        raise ValueError(reason)


def unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; a second value of one name could be the one that others read."""
    check(len(dict(members)) == len(members), "a name stands twice")
    return dict(members)


def load(text: str | bytes) -> Any:
    return json.loads(text, object_pairs_hook=unique)


def check_file(bundle: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Check that other programs, which read the header beside it, unpack a file as it is here."""
    file: Any = bundle.fp
    file.seek(info.header_offset)
    flags, method, *sums, length, size = struct.unpack("<6x2H4x3L2H", file.read(30))
    name, extra = file.read(length), file.read(size)
    check(name == info.orig_filename.encode() == info.filename.encode(), "a file has two names")
    wanted = (info.CRC, info.compress_size, info.file_size)
    for got, want in zip(sums, wanted, strict=True):
        is_same = got in (want, ZIP64) or (flags & STREAM and not got)
        check(is_same and method == info.compress_type, f"{info.filename} has two contents")
    for fields in (extra, info.extra):
        at = 0
        while at < len(fields):
            kind, size = struct.unpack_from("<2H", fields, at)
            check(kind != UNICODE_PATH, f"{info.filename} has a second name")
            at += 4 + size


def decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def is_signed(note: str, vkey: str) -> bool:
    """Whether a key has signed a note (c2sp.org/signed-note); raises for a wrong signature."""
    above, _, lines = note.rpartition("\n\n")
    name, key_id, key = vkey.split("+", 2)
    kind, found = decode(key)[0], False
    for line in lines.splitlines():
        dash, holder, signature = line.split(" ")
        check(dash == "—", "a line of a note is not a signature")
        blob, text = decode(signature), f"{above}\n".encode()
        if (holder, blob[:4].hex()) == (name, key_id) and kind in (LOG_KEY, WITNESS_KEY):
            if kind == WITNESS_KEY:  # c2sp.org/tlog-cosignature: it has the time in front.
                time, blob = int.from_bytes(blob[4:12], "big"), blob[8:]
                text = b"cosignature/v1\ntime %d\n%b" % (time, text)
            VerifyKey(decode(key)[1:]).verify(text, blob[4:])
            found = True
    return found


def read_head(note: str, policy: str) -> tuple[int, bytes]:
    """Size and root of the tree whose head the log and a quorum signed (c2sp.org/tlog-policy)."""
    origin, size, root = note.rpartition("\n\n")[0].split("\n")
    signed, quorum = {"none"}, "none"
    for line in policy.splitlines():
        match line.partition("#")[0].split():
            case ["log", vkey, *_] if vkey.startswith(f"{origin}+") and is_signed(note, vkey):
                signed.add("")
            case ["witness", name, vkey, *_] if is_signed(note, vkey):
                signed.add(name)
            case ["group", name, count, *members]:
                number = {"any": 1, "all": len(members)}.get(count) or int(count)
                if len(signed.intersection(members)) >= number:
                    signed.add(name)
            case ["quorum", name]:
                quorum = name
    check("" in signed, "the log has not signed")
    check(quorum in signed, "no quorum of witnesses")
    return int(size), decode(root)


def middle(start: int, end: int) -> int:
    """The place at which RFC 6962 splits a tree: the left half is the largest power of two."""
    return start + (1 << ((end - start - 1).bit_length() - 1))


def multi(leaves: dict[int, bytes], start: int, end: int, proof: list[bytes]) -> bytes:
    """The root of [start, end) from some leaf hashes and the subtrees beside; uses `proof` up."""
    if not leaves or end - start == 1:
        return leaves.get(start) or proof.pop(0)
    half = middle(start, end)
    left = multi({at: each for at, each in leaves.items() if at < half}, start, half, proof)
    right = multi({at: each for at, each in leaves.items() if at >= half}, half, end, proof)
    return sha256(b"\x01", left, right)


def included(leaf: bytes, at: int, size: int, proof: list[bytes]) -> bytes:
    """The root of a tree that has this leaf hash (RFC 6962, 2.1.1); uses `proof` up."""
    if size == 1:
        return leaf
    half, last = middle(0, size), proof.pop()
    if at < half:
        return sha256(b"\x01", included(leaf, at, half, proof), last)
    return sha256(b"\x01", last, included(leaf, at - half, size - half, proof))


def grown(old: int, new: int, root: bytes, proof: list[bytes]) -> tuple[bytes, bytes]:
    """The roots of two trees, one the beginning of the other (RFC 6962, 2.1.2)."""
    if old == new:
        return (root or proof.pop(),) * 2
    half, last = middle(0, new), proof.pop()
    if old <= half:
        first, second = grown(old, half, root, proof)
        return first, sha256(b"\x01", second, last)
    first, second = grown(old - half, new - half, b"", proof)
    return sha256(b"\x01", last, first), sha256(b"\x01", last, second)


def canonical(value: Any) -> str:
    """RFC 8785, but for numbers between -0.0001 and 0.0001."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: str(key).encode("utf-16-be"))
        return "{" + ",".join(f"{canonical(key)}:{canonical(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    is_whole = isinstance(value, float) and value.is_integer()
    return json.dumps(int(value) if is_whole else value, ensure_ascii=False)


def check_opening(path: str, salt: str, value: Any, event: Any) -> None:
    """Check that a disclosed value opens the commitment at its path in the event."""
    for key in path.split("/")[1:]:
        name = key.replace("~1", "/").replace("~0", "~")
        event = event[int(key)] if isinstance(event, list) else event[name]
    committed = sha256(canonical([salt, path, value]).encode())
    text = base64.urlsafe_b64encode(committed).decode().rstrip("=")
    check(event in ({"commitment": text}, f"commitment.{text}"), f"the value at {path}")
    check(len(base64.urlsafe_b64decode(salt + "=")) == SALT_BYTES, f"the salt at {path}")


def read_part(bundle: zipfile.ZipFile, name: str, size: int, root: bytes) -> dict[int, bytes]:
    """The leaves of a part by index, each proven to be in the tree."""
    *leaves, end = bundle.read(f"{name}.jsonl").split(b"\n")
    kind, line, *hashes, last = bundle.read(f"{name}.multi-proof").decode().split("\n")
    check(kind == "witnessed-ledger/multi-proof@v1" and not end + last.encode(), f"{name}: form")
    at: list[int] = []
    for first, _, final in (word.partition("-") for word in line.split(" ")):
        check(int(final or first) - int(first) < len(leaves) >= len(at), f"{name}: the indices")
        at += range(int(first), int(final or first) + 1)
    check(at == sorted(set(at)) and at[-1] < size, f"{name}: the indices")
    found, proof = dict(zip(at, leaves, strict=True)), list(map(decode, hashes))
    computed = multi({at: sha256(b"\x00", found[at]) for at in found}, 0, size, proof)
    check(computed == root and not proof, f"{name} is untrue")
    return found


def check_statement(bundle: zipfile.ZipFile, policy: str, size: int, root: bytes) -> None:
    """Check that the statement is in the log, in a tree that begins with that of the events."""
    above, _, note = bundle.read(PROOF).decode().partition("\n\n")
    _, line, *hashes = above.split("\n")
    at, (later, new_root) = int(line.removeprefix("index ")), read_head(note, policy)
    leaf, proof = sha256(b"\x00", bundle.read("statement.leaf.json")), list(map(decode, hashes))
    check(at < later and included(leaf, at, later, proof) == new_root, "the statement is untrue")
    heads = map(load, bundle.read("heads.jsonl").splitlines())
    (grew,) = (list(map(decode, each["hashes"])) for each in heads if each["checkpoint"] == note)
    check(0 < size < later, "the statement is older than the tree")
    check(grown(size, later, root, grew) == (root, new_root), "the log was rewritten")
    check(not proof and not grew, "a proof is too long")


def verify(bundle: zipfile.ZipFile, policy: str) -> dict[str, Any]:
    """The statement of a bundle that is verified. Raises whatever is wrong."""
    check(sum(each.file_size for each in bundle.infolist()) <= BYTES_MAX, "it is too large")
    for info in bundle.infolist():
        check_file(bundle, info)
    names, manifest = bundle.namelist(), load(bundle.read("manifest.json"))
    size, root = read_head(bundle.read("checkpoint").decode(), policy)
    entry = load(bundle.read("statement.leaf.json"))
    check(entry["event"]["action"] == "ledger.evidence.exported", "no statement")
    check(entry["received"]["by"] == "ledger", "a statement by another than the log")
    stated: dict[str, Any] = entry["event"]["context"]["evidence"]
    known, chain, at, places = {*FIXED}, b"", [-1], set[tuple[int, str]]()
    for number in range(manifest["parts"]):
        part, private = f"events/{number:06d}", f"private/{number:06d}.jsonl"
        leaves = read_part(bundle, part, size, root)
        check(min(leaves) > at[-1], f"{part}: the order")
        at += leaves
        chain += b"".join(sha256(b"\x00", leaf) for leaf in leaves.values())
        events: dict[int, Any] = {}
        for line in bundle.read(private).splitlines() if private in names else ():
            index, path, salt, value = map(load(line).get, ("index", "path", "salt", "value"))
            if index not in events:
                events[index] = load(leaves[index])["event"]
            check_opening(path, salt, value, events[index])
            check((index, path) not in places, "a value stands twice")
            places.add((index, path))
        known |= {f"{part}.jsonl", f"{part}.multi-proof", private}
    check(set(names) <= known and len(set(names)) == len(names), "a file does not belong there")
    check((stated["tree_size"], decode(stated["root_hash"])) == (size, root), "the tree")
    check(stated["total"] == manifest["events"] == len(at) - 1, "the number of events")
    for each in (stated, manifest):
        check(each.get("disclosed", 0) == len(places), "the number of disclosed values")
    check(stated["leaf_hashes_sha256"] == sha256(chain).hex(), "other events were stated")
    for name in TEXTS:
        check(sha256(bundle.read(name)).hex() == stated["files"][name], f"{name} was changed")
    if PROOF in names:
        check_statement(bundle, policy, size, root)
    else:
        check(manifest["statement_missing"], "the statement has no proof")
        print(f"the statement is NOT proven: {manifest['statement_missing']!a}")
        print("so nothing proves README.txt, index.html, and how many events there were")
    return stated


if __name__ == "__main__":
    try:
        _, bundle_path, policy_path = sys.argv
    except ValueError:
        raise SystemExit("usage: python verify_evidence.py BUNDLE.zip POLICY") from None
    try:
        with zipfile.ZipFile(bundle_path) as archive:
            said = verify(archive, Path(policy_path).read_text(encoding="utf-8"))
    except Exception as error:  # noqa: BLE001 - whatever it is, nothing is proven
        # No file from a stranger gets a character to the terminal that it obeys.
        raise SystemExit(f"NOT VERIFIED: {ascii(str(error))[1:-1]}") from None
    print(f"verified: {said['total']} events; the log was asked: {said['query']!a}")
