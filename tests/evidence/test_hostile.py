"""A bundle from a stranger costs no more than its size, whatever it states."""

import struct
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

import msgspec
import pytest

from docs.examples import verify_evidence
from ledger_core.evidence import archive as archives
from ledger_core.evidence.archive import DIRECTORY_BYTES_MAX, FILES_MAX
from ledger_core.evidence.layout import PARTS_MAX
from ledger_core.evidence.verifier import check_evidence
from ledger_core.tlog.errors import MalformedError
from tests.evidence.bundles import Maker, changed, edit_json, files_of, pack
from tests.evidence.first_edition import POLICY
from tests.evidence.first_edition import write as write_first

BOMB_BYTES = 1 << 26
MAKER = Maker()
HASH = b"A" * 43 + b"=\n"


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < BOMB_BYTES // 4
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKER.write(tmp_path_factory.mktemp("hostile") / "evidence.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("name", ["events/000000.jsonl", "checkpoint", "policy"])
def test_an_entry_that_is_not_deflated_is_refused_unread(
    bundle: Path, tmp_path: Path, method: int, name: str
) -> None:
    path = tmp_path / "evidence.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for each, data in (files_of(bundle) | {name: bytes(BOMB_BYTES)}).items():
            archive.writestr(each, data, method if each == name else None)
    assert path.stat().st_size < 1 << 17
    with little_memory(), pytest.raises(MalformedError, match="not compressed with deflate"):
        check_evidence(path, MAKER.policy)


@pytest.mark.parametrize(
    "name",
    [
        *("events/000000.jsonl", "events/000000.multi-proof", "statement.tlog-proof"),
        *("heads.jsonl", "index.html", "checkpoint", "policy", "manifest.json"),
        "statement.leaf.json",
    ],
)
def test_a_deflated_bomb_is_read_up_to_the_limit_of_its_place(bundle: Path, name: str) -> None:
    path = changed(bundle, lambda files: files.update({name: bytes(BOMB_BYTES)}))
    with little_memory():
        try:
            faults = check_evidence(path, MAKER.policy).faults
        except MalformedError as error:
            faults = (str(error),)
    assert any("longer than" in fault for fault in faults), faults


def test_a_bomb_in_the_first_edition_too(tmp_path: Path) -> None:
    path = write_first(tmp_path / "evidence.zip")
    bomb = {"events/000000000007.tlog-proof": bytes(BOMB_BYTES)}
    with little_memory():
        faults = check_evidence(changed(path, lambda files: files.update(bomb)), POLICY).faults
    assert any("000000000007.tlog-proof" in fault for fault in faults)


def test_a_directory_with_an_absurd_number_of_files_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(tmp_path / "evidence.zip", {f"{number:090d}": b"" for number in range(50)})
    monkeypatch.setattr(archives, "FILES_MAX", 49)
    with pytest.raises(MalformedError, match="got 50 files, want 49 at most"):
        check_evidence(path, POLICY)
    monkeypatch.setattr(archives, "DIRECTORY_BYTES_MAX", 5000)
    with pytest.raises(MalformedError, match="at most 5000"):
        check_evidence(path, POLICY)
    assert DIRECTORY_BYTES_MAX // FILES_MAX > 2 * 46


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("parts", PARTS_MAX + 1),
        ("parts", -1),
        ("events", 2**63),
        ("events", -1),
        ("disclosed", 1.5),
        ("statement_missing", "x" * 2001),
        ("more", 1),
    ],
)
def test_numbers_of_the_manifest_are_bounded(bundle: Path, member: str, value: object) -> None:
    path = changed(bundle, lambda files: edit_json(files, "manifest.json", **{member: value}))
    with pytest.raises(MalformedError, match=r"manifest\.json"):
        check_evidence(path, MAKER.policy)


def test_many_claimed_parts_cost_a_fault_each_up_to_the_limit(bundle: Path) -> None:
    path = changed(bundle, lambda files: edit_json(files, "manifest.json", parts=PARTS_MAX))
    evidence = check_evidence(path, MAKER.policy)
    assert evidence.faults[-1] == "and more"


@pytest.mark.parametrize(
    "proof",
    [
        b"witnessed-ledger/multi-proof@v1\n0-9223372036854775806\n",
        b"witnessed-ledger/multi-proof@v1\n0-4096\n",
        b"witnessed-ledger/multi-proof@v1\n3 60-62 150 9223372036854775806\n",
        b"witnessed-ledger/multi-proof@v1\n3 60-62 150 299\n" + HASH * 400,
        b"witnessed-ledger/multi-proof@v1\n",
        b"\xff",
        b"",
    ],
)
def test_an_absurd_proof_is_a_fault(bundle: Path, proof: bytes) -> None:
    path = changed(bundle, lambda files: files.update({"events/000000.multi-proof": proof}))
    assert any("events/000000" in fault for fault in check_evidence(path, MAKER.policy).faults)


def test_files_that_overlap_are_refused(bundle: Path, tmp_path: Path) -> None:
    """Many names for one compressed stream would cost its size once and its work many times."""
    path = tmp_path / "evidence.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files_of(bundle).items():
            archive.writestr(name, data)
        info = zipfile.ZipInfo("again")
        first = archive.getinfo("README.txt")
        for field in ("CRC", "compress_size", "file_size", "compress_type", "header_offset"):
            setattr(info, field, getattr(first, field))
        archive.filelist.append(info)
    with pytest.raises(MalformedError, match="overlaps another file"):
        check_evidence(path, MAKER.policy)


def test_deep_json_is_no_crash(bundle: Path) -> None:
    deep = b'{"index":3,"path":"/context/x","salt":"", "value":' + b"[" * 100_000
    for name, data in (("heads.jsonl", deep + b"\n"), ("private/000000.jsonl", deep + b"\n")):
        path = changed(bundle, lambda files, name=name, data=data: files.update({name: data}))  # type: ignore[misc]  # those of this round
        assert any(name in fault for fault in check_evidence(path, MAKER.policy).faults)
    path = changed(bundle, lambda files: files.update({"statement.leaf.json": deep}))
    with pytest.raises(MalformedError):
        check_evidence(path, MAKER.policy)


def test_a_line_of_heads_is_bounded(bundle: Path) -> None:
    line = msgspec.json.encode({"checkpoint": "x" * (1 << 18), "hashes": []}) + b"\n"
    path = changed(bundle, lambda files: files.update({"heads.jsonl": line}))
    assert any("longer than" in fault for fault in check_evidence(path, MAKER.policy).faults)


FALSE_PAGE = b"<h1>another table</h1>"


def named(name: str, shown: str) -> zipfile.ZipInfo:
    """An entry with the extra field "Unicode path", whose name unzip prefers."""
    info = zipfile.ZipInfo(name)
    field = struct.pack("<BL", 1, crc32(name.encode())) + shown.encode()
    info.extra = struct.pack("<HH", 0x7075, len(field)) + field
    return info


def is_verified_independently(path: Path) -> bool:
    """By the verifier in docs/examples, which has no code of ours."""
    try:
        with zipfile.ZipFile(path) as archive:
            verify_evidence.verify(archive, MAKER.policy_text)
    except Exception:  # noqa: BLE001 - whatever it raises, it refuses
        return False
    return True


def with_entry(bundle: Path, to: Path, entry: zipfile.ZipInfo | str, folder: str = "") -> Path:
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files_of(bundle).items():
            archive.writestr(folder + name, data)
        archive.writestr(entry, FALSE_PAGE)
    return to


@pytest.mark.parametrize(
    "entry",
    [
        named(".DS_Store", "index.html"),
        named("__MACOSX/._index.html", "index.html"),
        "__MACOSX/../index.html",
        "__MACOSX/..\\index.html",
        "../__MACOSX/index.html",
        "/__MACOSX/index.html",
        "index.html/",
    ],
    ids=lambda entry: entry if isinstance(entry, str) else f"{entry.filename} by another name",
)
def test_nothing_is_unpacked_in_the_place_of_a_file_that_was_verified(
    bundle: Path, tmp_path: Path, entry: zipfile.ZipInfo | str
) -> None:
    path = with_entry(bundle, tmp_path / "evidence.zip", entry)
    assert check_evidence(path, MAKER.policy).faults
    assert not is_verified_independently(path)


@pytest.mark.parametrize(
    "folder", ["../../evil/", "/evil/", "events/../../evil/", "events\\..\\evil/", "C:/evil/"]
)
def test_an_empty_folder_that_leads_out_of_the_bundle_is_named(
    bundle: Path, tmp_path: Path, folder: str
) -> None:
    path = tmp_path / "evidence.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files_of(bundle).items():
            archive.writestr(name, data)
        archive.writestr("events/", b"")
        archive.writestr(folder, b"")
    said = "it holds 1 names that lead out of the folder in which it is unpacked"
    assert [fault for fault in check_evidence(path, MAKER.policy).faults if said in fault]
    assert not is_verified_independently(path)


@pytest.mark.parametrize("at", [8, 18, 30], ids=["method", "size", "name"])
def test_a_file_whose_own_header_disagrees_with_the_directory_is_named(
    bundle: Path, tmp_path: Path, at: int
) -> None:
    path = with_entry(bundle, tmp_path / "evidence.zip", ".DS_Store")
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(".DS_Store").header_offset
    data = bytearray(path.read_bytes())
    data[start + at] ^= 1
    path.write_bytes(data)
    faults = check_evidence(path, MAKER.policy).faults
    assert [fault for fault in faults if "1 files that other programs unpack" in fault]


@pytest.mark.parametrize("at", [8, 18, 30, None], ids=["method", "size", "name", "second name"])
@pytest.mark.parametrize("name", ["index.html", "events/000000.jsonl"])
def test_the_independent_verifier_sees_what_other_programs_unpack(
    bundle: Path, tmp_path: Path, at: int | None, name: str
) -> None:
    path = tmp_path / "evidence.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, content in files_of(bundle).items():
            is_hidden = at is None and each == name
            archive.writestr(named(each, "other.html") if is_hidden else each, content)
        start = archive.getinfo(name).header_offset
    data = bytearray(path.read_bytes())
    assert is_verified_independently(bundle)
    if at is not None:
        data[start + at] ^= 1
        path.write_bytes(data)
    assert not is_verified_independently(path)
    assert check_evidence(path, MAKER.policy).faults


def test_a_folder_that_is_not_ascii_may_have_a_second_spelling(
    bundle: Path, tmp_path: Path
) -> None:
    entry = named("Beweis/.DS_Store", "Beweis f\u00fcr Fall 7/.DS_Store")
    path = with_entry(bundle, tmp_path / "evidence.zip", entry, folder="Beweis/")
    assert not check_evidence(path, MAKER.policy).faults
