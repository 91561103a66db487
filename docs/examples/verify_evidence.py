"""Verifies a bundle of evidence with hashlib and PyNaCl, and with no code of the ledger.

    python verify_evidence.py BUNDLE.zip POLICY

Written from docs/formats.md, sections 1 and 4. It reads the second edition and Ed25519 keys, and
checks the events, the statement and the disclosed values. It prints the query, which it does not
evaluate, and leaves out the heads that only date events.
"""

import base64
import hashlib
import json
import sys
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

Head = tuple[str, int, bytes]  # origin, tree size, root hash
Keys = dict[tuple[str, bytes], tuple[str, int, VerifyKey]]  # (name, id): policy's name, type, key
REFUSED = (
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    BadSignatureError,
)
COSIGNATURE = 4  # the type of a witness's key; 1 is that of a log
SALT_BYTES = 32
TEXTS = {"README.txt", "index.html", "query.txt", "policy"}
FIXED = TEXTS | {"checkpoint", "heads.jsonl", "statement.leaf.json", "manifest.json"}


def check(is_true: object, reason: str) -> None:
    if not is_true:
        raise SystemExit(f"NOT VERIFIED: {reason}")


def leaf_hash(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Policy:
    """c2sp.org/tlog-policy: the keys of logs and witnesses, and the quorum."""

    def __init__(self, text: str) -> None:
        self.keys: Keys = {}
        self.groups: list[tuple[str, int, list[str]]] = []
        self.quorum = "none"
        for words in filter(None, (line.partition("#")[0].split() for line in text.splitlines())):
            if words[0] in ("log", "witness"):
                name, vkey = ("log", words[1]) if words[0] == "log" else words[1:3]
                holder, key_id, key = vkey.split("+", 2)
                data = base64.b64decode(key, validate=True)
                if data[0] in (1, COSIGNATURE):
                    known = (name, data[0], VerifyKey(data[1:]))
                    self.keys[holder, bytes.fromhex(key_id)] = known
            elif words[0] == "group":
                count = {"any": "1", "all": str(len(words) - 3)}.get(words[2], words[2])
                self.groups.append((words[1], int(count), words[3:]))
            elif words[0] == "quorum":
                self.quorum = words[1]

    def verify(self, note: str) -> Head:
        """The head in a signed note that the log and a quorum of witnesses have signed."""
        text, _, lines = note.rpartition("\n\n")
        text += "\n"
        origin, size, root = text.split("\n")[:3]
        holding: set[str] = set()
        for line in lines.splitlines():
            dash, name, signature = line.split(" ")
            check(dash == "—", "a line of a note is not a signature")
            blob = base64.b64decode(signature, validate=True)
            if (known := self.keys.get((name, blob[:4]))) is None:
                continue
            who, kind, key = known
            check(kind == COSIGNATURE or name == origin, "a log's key signed for another log")
            message, signed = text.encode(), blob[4:]
            if kind == COSIGNATURE:
                time = int.from_bytes(blob[4:12], "big")
                message, signed = b"cosignature/v1\ntime %d\n" % time + message, blob[12:]
            key.verify(message, signed)
            holding.add(who)
        for group, count, members in self.groups:
            if len(holding.intersection(members)) >= count:
                holding.add(group)
        check("log" in holding, "the log has not signed")
        check(self.quorum == "none" or self.quorum in holding, "no quorum of witnesses")
        return origin, int(size), base64.b64decode(root, validate=True)


def multi_root(size: int, at: Sequence[int], hashes: Sequence[bytes], proof: list[bytes]) -> bytes:
    """The root of the tree that has these leaf hashes at these indices."""
    rest = iter(proof)

    def root(start: int, end: int, low: int, high: int) -> bytes:
        if low == high:
            return next(rest)
        if end - start == 1:
            return hashes[low]
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        split = bisect_left(at, middle, low, high)
        left = root(start, middle, low, split)
        return node_hash(left, root(middle, end, split, high))

    try:
        computed = root(0, size, 0, len(at))
    except StopIteration:
        return b""
    return b"" if next(rest, None) else computed


def included(leaf: bytes, at: int, size: int, proof: list[bytes]) -> bytes:
    """RFC 6962, 2.1.1: the root of a tree that has this leaf hash; `proof` is used up."""
    if size == 1:
        return leaf
    left, last = 1 << ((size - 1).bit_length() - 1), proof.pop()
    if at < left:
        return node_hash(included(leaf, at, left, proof), last)
    return node_hash(last, included(leaf, at - left, size - left, proof))


def grown(old: int, new: int, root: bytes, proof: list[bytes]) -> tuple[bytes, bytes]:
    """RFC 6962, 2.1.2: the roots of two trees, one the beginning of the other."""
    if old == new:
        known = root or proof.pop()
        return known, known
    left, last = 1 << ((new - 1).bit_length() - 1), proof.pop()
    if old <= left:
        first, second = grown(old, left, root, proof)
        return first, node_hash(second, last)
    first, second = grown(old - left, new - left, b"", proof)
    return node_hash(last, first), node_hash(last, second)


def indices_of(line: str) -> Iterator[int]:
    for word in line.split(" "):
        first, _, last = word.partition("-")
        yield from range(int(first), int(last or first) + 1)


def decode(texts: Sequence[str]) -> list[bytes]:
    return [base64.b64decode(text, validate=True) for text in texts]


def canonical(value: Any) -> str:
    """RFC 8785, but for numbers between -0.0001 and 0.0001."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: str(key).encode("utf-16-be"))
        return "{" + ",".join(f"{canonical(key)}:{canonical(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False)


def check_disclosed(lines: list[bytes], leaves: dict[int, bytes]) -> int:
    """Check that each value opens the commitment in its event; the number of them."""
    places = set()
    for line in lines:
        opening = json.loads(line)
        index, path, salt = opening["index"], opening["path"], opening["salt"]
        found: Any = json.loads(leaves[index])["event"]
        for key in path.split("/")[1:]:
            name = key.replace("~1", "/").replace("~0", "~")
            found = found[int(key)] if isinstance(found, list) else found[name]
        committed = hashlib.sha256(canonical([salt, path, opening["value"]]).encode()).digest()
        text = base64.urlsafe_b64encode(committed).decode().rstrip("=")
        check(found in ({"commitment": text}, f"commitment.{text}"), f"the value at {path}")
        check(len(base64.urlsafe_b64decode(salt + "=")) == SALT_BYTES, f"the salt at {path}")
        places.add((index, path))
    check(len(places) == len(lines), "a disclosed value stands twice")
    return len(lines)


def verify(bundle: zipfile.ZipFile, policy: Policy) -> dict[str, Any]:
    """The statement of a bundle that is verified."""
    names = set(bundle.namelist())
    check(names >= FIXED, "a file is missing")
    check(len(names) == len(bundle.namelist()), "a name stands twice")
    manifest = json.loads(bundle.read("manifest.json"))
    head = policy.verify(bundle.read("checkpoint").decode())
    leaf = bundle.read("statement.leaf.json")
    entry = json.loads(leaf)
    check(entry["event"]["action"] == "ledger.evidence.exported", "no statement")
    check(entry["received"]["by"] == "ledger", "a statement by another than the log")
    stated: dict[str, Any] = entry["event"]["context"]["evidence"]
    chain, count, disclosed, last = hashlib.sha256(), 0, 0, -1
    for part in range(manifest["parts"]):
        name = f"events/{part:06d}"
        check({f"{name}.jsonl", f"{name}.multi-proof"} <= names, f"{name} is missing")
        *leaves, end = bundle.read(f"{name}.jsonl").split(b"\n")
        kind, line, *hashes = bundle.read(f"{name}.multi-proof").decode().split("\n")
        at, found = list(indices_of(line)), list(map(leaf_hash, leaves))
        check(kind == "witnessed-ledger/multi-proof@v1" and not end, f"{name} is malformed")
        check(len(at) == len(found) and at == sorted(set(at)) and at[0] > last, f"{name}: order")
        check(multi_root(head[1], at, found, decode(hashes[:-1])) == head[2], f"{name} is untrue")
        chain.update(b"".join(found))
        count, last = count + len(at), at[-1]
        if (private := f"private/{part:06d}.jsonl") in names:
            lines = bundle.read(private).splitlines()
            disclosed += check_disclosed(lines, dict(zip(at, leaves, strict=True)))
        names -= {f"{name}.jsonl", f"{name}.multi-proof", private}
    check(names <= FIXED | {"statement.tlog-proof"}, "a file does not belong there")
    check((stated["tree_size"], decode([stated["root_hash"]])) == (head[1], [head[2]]), "the tree")
    check((stated["total"], manifest["events"]) == (count, count), "the number of events")
    for each in (stated, manifest):
        check(each.get("disclosed", 0) == disclosed, "the number of disclosed values")
    check(stated["leaf_hashes_sha256"] == chain.hexdigest(), "other events were stated")
    for name in TEXTS:
        digest = hashlib.sha256(bundle.read(name)).hexdigest()
        check(digest == stated["files"][name], f"{name} was changed")
    if "statement.tlog-proof" not in bundle.namelist():
        check(manifest["statement_missing"], "the statement has no proof")
        print(f"the statement is NOT proven: {manifest['statement_missing']}")
        return stated
    above, _, note = bundle.read("statement.tlog-proof").decode().partition("\n\n")
    _, index, *hashes = above.split("\n")
    later = policy.verify(note)
    number = int(index.removeprefix("index "))
    proof = decode(hashes)
    check(number < later[1], "the statement is untrue")
    root = included(leaf_hash(leaf), number, later[1], proof)
    check(root == later[2] and not proof, "the statement is untrue")
    heads = map(json.loads, bundle.read("heads.jsonl").splitlines())
    (proof,) = (decode(line["hashes"]) for line in heads if line["checkpoint"] == note)
    check(0 < head[1] < later[1], "the statement is older than the tree")
    roots = grown(head[1], later[1], head[2], proof)
    check(roots == (head[2], later[2]) and not proof, "the log was rewritten")
    return stated


def main() -> None:
    policy = Policy(Path(sys.argv[2]).read_text(encoding="utf-8"))
    try:
        with zipfile.ZipFile(sys.argv[1]) as bundle:
            stated = verify(bundle, policy)
    except REFUSED as error:
        raise SystemExit(f"NOT VERIFIED: malformed, {error}") from None
    print(f"verified: {stated['total']} events; the log was asked: {stated['query']!r}")


if __name__ == "__main__":
    main()
