"""Verifies a bundle of evidence with hashlib and PyNaCl, and with no code of the ledger.

    python verify_evidence.py BUNDLE.zip POLICY

Written from docs/formats.md, sections 1, 2 and 4. It reads the second edition and Ed25519 keys. It
prints the query, which it does not evaluate, and leaves out the heads that only date events.

Half of it is other people's formats: the policy, signed notes and the three proofs of a Merkle
tree. A hundred lines would have room for the events, but not for the statement and for disclosed
values, which need a consistency proof and RFC 8785.
"""

import base64
import hashlib
import json
import sys
import zipfile
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nacl.signing import VerifyKey

Key = tuple[str, int, VerifyKey]  # its name in the policy, its type, the key
Head = tuple[str, int, bytes]  # origin, tree size, root hash
LOG_KEY, WITNESS_KEY, SALT_BYTES = 1, 4, 32
TEXTS = {"README.txt", "index.html", "query.txt", "policy"}
FIXED = TEXTS | {"checkpoint", "heads.jsonl", "statement.leaf.json", "manifest.json"}
PROOF = "statement.tlog-proof"


def check(is_true: object, reason: str) -> None:
    if not is_true:
        raise ValueError(reason)


def decode(texts: Sequence[str]) -> list[bytes]:
    return [base64.b64decode(text, validate=True) for text in texts]


def leaf_hash(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Policy:
    """c2sp.org/tlog-policy: the keys of the log and its witnesses, groups, the quorum."""

    def __init__(self, text: str) -> None:
        self.keys: dict[tuple[str, bytes], Key] = {}
        self.groups: list[tuple[str, int, list[str]]] = []
        self.quorum = "none"
        for line in text.splitlines():
            match line.partition("#")[0].split():
                case ["log", vkey, *_]:
                    self.add_key("log", vkey)
                case ["witness", name, vkey, *_]:
                    self.add_key(name, vkey)
                case ["group", name, count, *members]:
                    number = {"any": 1, "all": len(members)}.get(count) or int(count)
                    self.groups.append((name, number, members))
                case ["quorum", name]:
                    self.quorum = name

    def add_key(self, name: str, vkey: str) -> None:
        holder, key_id, key = vkey.split("+", 2)
        (data,) = decode([key])
        if data[0] in (LOG_KEY, WITNESS_KEY):
            self.keys[holder, bytes.fromhex(key_id)] = (name, data[0], VerifyKey(data[1:]))

    def verify(self, note: str) -> Head:
        """The head in a signed note, if the log and a quorum of witnesses have signed it."""
        above, _, lines = note.rpartition("\n\n")
        text, signers = f"{above}\n".encode(), {"none"}
        origin, size, root = above.split("\n")[:3]
        for line in lines.splitlines():
            dash, holder, signature = line.split(" ")
            check(dash == "—", "a line of a note is not a signature")
            (blob,) = decode([signature])
            name, kind, key = self.keys.get((holder, blob[:4]), ("", 0, None))
            if key and kind == LOG_KEY:
                check(holder == origin, "a log's key signed for another log")
                key.verify(text, blob[4:])
            elif key:
                time = int.from_bytes(blob[4:12], "big")
                key.verify(b"cosignature/v1\ntime %d\n%b" % (time, text), blob[12:])
            signers.add(name)
        for name, count, members in self.groups:
            if len(signers.intersection(members)) >= count:
                signers.add(name)
        check("log" in signers, "the log has not signed")
        check(self.quorum in signers, "no quorum of witnesses")
        return origin, int(size), decode([root])[0]


def middle(start: int, end: int) -> int:
    """The place at which RFC 6962 splits a tree: the left half is the largest power of two."""
    return start + (1 << ((end - start - 1).bit_length() - 1))


def multi(at: Sequence[int], hashes: Sequence[bytes], tree: range, proof: list[bytes]) -> bytes:
    """The root of a tree with these leaf hashes at these indices; `proof` is used up."""
    if not at:
        return proof.pop(0)
    if len(tree) == 1:
        return hashes[0]
    half = middle(tree.start, tree.stop)
    split = bisect_left(at, half)
    left = multi(at[:split], hashes[:split], range(tree.start, half), proof)
    return node_hash(left, multi(at[split:], hashes[split:], range(half, tree.stop), proof))


def included(leaf: bytes, at: int, size: int, proof: list[bytes]) -> bytes:
    """RFC 6962, 2.1.1: the root of a tree that has this leaf hash; `proof` is used up."""
    if size == 1:
        return leaf
    left, last = middle(0, size), proof.pop()
    if at < left:
        return node_hash(included(leaf, at, left, proof), last)
    return node_hash(last, included(leaf, at - left, size - left, proof))


def grown(old: int, new: int, root: bytes, proof: list[bytes]) -> tuple[bytes, bytes]:
    """RFC 6962, 2.1.2: the roots of two trees, one the beginning of the other."""
    if old == new:
        known = root or proof.pop()
        return known, known
    left, last = middle(0, new), proof.pop()
    if old <= left:
        first, second = grown(old, left, root, proof)
        return first, node_hash(second, last)
    first, second = grown(old - left, new - left, b"", proof)
    return node_hash(last, first), node_hash(last, second)


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


def check_opening(opening: dict[str, Any], leaf: bytes) -> None:
    """Check that a disclosed value opens the commitment in its event."""
    path, salt = opening["path"], opening["salt"]
    found: Any = json.loads(leaf)["event"]
    for key in path.split("/")[1:]:
        name = key.replace("~1", "/").replace("~0", "~")
        found = found[int(key)] if isinstance(found, list) else found[name]
    committed = hashlib.sha256(canonical([salt, path, opening["value"]]).encode()).digest()
    text = base64.urlsafe_b64encode(committed).decode().rstrip("=")
    check(found in ({"commitment": text}, f"commitment.{text}"), f"the value at {path}")
    check(len(base64.urlsafe_b64decode(salt + "=")) == SALT_BYTES, f"the salt at {path}")


def indices_of(line: str) -> Iterator[int]:
    for word in line.split(" "):
        first, _, last = word.partition("-")
        yield from range(int(first), int(last or first) + 1)


def read_part(bundle: zipfile.ZipFile, name: str, head: Head) -> dict[int, bytes]:
    """The leaves of a part by index, each proven to be in the tree."""
    *leaves, end = bundle.read(f"{name}.jsonl").split(b"\n")
    kind, line, *hashes, last = bundle.read(f"{name}.multi-proof").decode().split("\n")
    at, proof = list(indices_of(line)), decode(hashes)
    check(kind == "witnessed-ledger/multi-proof@v1" and not end + last.encode(), f"{name}: form")
    check(at == sorted(set(at)) and at[-1] < head[1], f"{name}: the indices")
    check(len(at) == len(leaves), f"{name}: the number of leaves")
    root = multi(at, list(map(leaf_hash, leaves)), range(head[1]), proof)
    check(root == head[2] and not proof, f"{name} is untrue")
    return dict(zip(at, leaves, strict=True))


def check_statement(bundle: zipfile.ZipFile, policy: Policy, head: Head) -> None:
    """Check that the statement is in the log, in a tree that begins with that of the events."""
    above, _, note = bundle.read(PROOF).decode().partition("\n\n")
    _, index, *hashes = above.split("\n")
    later, at, proof = policy.verify(note), int(index.removeprefix("index ")), decode(hashes)
    check(at < later[1], "the statement is untrue")
    root = included(leaf_hash(bundle.read("statement.leaf.json")), at, later[1], proof)
    check(root == later[2] and not proof, "the statement is untrue")
    heads = map(json.loads, bundle.read("heads.jsonl").splitlines())
    (proof,) = (decode(line["hashes"]) for line in heads if line["checkpoint"] == note)
    check(0 < head[1] < later[1], "the statement is older than the tree")
    roots = grown(head[1], later[1], head[2], proof)
    check(roots == (head[2], later[2]) and not proof, "the log was rewritten")


def verify(bundle: zipfile.ZipFile, policy: Policy) -> dict[str, Any]:
    """The statement of a bundle that is verified. Raises whatever is wrong."""
    names, known = bundle.namelist(), FIXED | {PROOF}
    manifest = json.loads(bundle.read("manifest.json"))
    head = policy.verify(bundle.read("checkpoint").decode())
    entry = json.loads(bundle.read("statement.leaf.json"))
    check(entry["event"]["action"] == "ledger.evidence.exported", "no statement")
    check(entry["received"]["by"] == "ledger", "a statement by another than the log")
    stated: dict[str, Any] = entry["event"]["context"]["evidence"]
    chain, at, places = hashlib.sha256(), [-1], set[tuple[int, str]]()
    for number in range(manifest["parts"]):
        name, private = f"events/{number:06d}", f"private/{number:06d}.jsonl"
        leaves = read_part(bundle, name, head)
        check(min(leaves) > at[-1], f"{name}: the order")
        at += leaves
        chain.update(b"".join(map(leaf_hash, leaves.values())))
        for line in bundle.read(private).splitlines() if private in names else ():
            opening = json.loads(line)
            check_opening(opening, leaves[opening["index"]])
            check((opening["index"], opening["path"]) not in places, "a value stands twice")
            places.add((opening["index"], opening["path"]))
        known |= {f"{name}.jsonl", f"{name}.multi-proof", private}
    check(set(names) <= known, "a file does not belong there")
    check(len(set(names)) == len(names), "a name stands twice")
    check((stated["tree_size"], decode([stated["root_hash"]])) == (head[1], [head[2]]), "the tree")
    check(stated["total"] == manifest["events"] == len(at) - 1, "the number of events")
    for each in (stated, manifest):
        check(each.get("disclosed", 0) == len(places), "the number of disclosed values")
    check(stated["leaf_hashes_sha256"] == chain.hexdigest(), "other events were stated")
    for name in TEXTS:
        digest = hashlib.sha256(bundle.read(name)).hexdigest()
        check(digest == stated["files"][name], f"{name} was changed")
    if PROOF in names:
        check_statement(bundle, policy, head)
    else:
        check(manifest["statement_missing"], "the statement has no proof")
        print(f"the statement is NOT proven: {manifest['statement_missing']}")
    return stated


def main() -> None:
    policy = Policy(Path(sys.argv[2]).read_text(encoding="utf-8"))
    try:
        with zipfile.ZipFile(sys.argv[1]) as bundle:
            stated = verify(bundle, policy)
    except Exception as error:  # noqa: BLE001 - whatever it is, nothing is proven
        raise SystemExit(f"NOT VERIFIED: {error}") from None
    print(f"verified: {stated['total']} events; the log was asked: {stated['query']!r}")


if __name__ == "__main__":
    main()
