"""The fields that the service commits to: what becomes of an event, and what is stored for it."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ledger.service.private_fields import ChangedEvent, PrivateField, PrivateFields
from ledger.store.erasable_values import (
    DamagedValueError,
    PrivateStore,
    create_private,
    event_key,
)
from ledger.store.key_slots import SLOT_BYTES
from ledger_core.api import Committed
from ledger_core.event.commitments import Opening, PrivateReader, encode_salt, format_envelope
from ledger_core.event.model import EventError
from ledger_core.event.reader import ReadEvent
from ledger_core.event.secrets import Hit
from tests.service.serving import event, new_id

FIELDS = (PrivateField("/targets/*/name", "/targets/*/id"),)
NAMED = {"targets": [{"id": "p_1", "name": "Zoë"}]}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PrivateStore]:
    create_private(tmp_path / "private")
    store = PrivateStore.open(tmp_path / "private", bytes(range(32)))
    yield store
    store.close()


def read(**fields: Any) -> ReadEvent:
    return PrivateReader(new_id, lambda: 0).read(msgspec.json.encode(event(**fields)))


def read_private(**fields: Any) -> ReadEvent:
    """An event that comes with a commitment to its diagnosis."""
    opening = Opening("/context/diagnosis", "u_1", encode_salt(bytes(32)), "F41.1")
    sent = event(context={"diagnosis": {"commitment": opening.commitment}}, **fields)
    reader = PrivateReader(new_id, lambda: 0)
    return reader.read(format_envelope(msgspec.json.encode(sent), [opening]))


def test_only_events_with_something_private_wait_for_the_disk(store: PrivateStore) -> None:
    without_fields = PrivateFields(store, (), lambda _id, _tenant: None)
    assert not without_fields.applies_to(read())
    assert without_fields.applies_to(read_private())
    assert PrivateFields(store, FIELDS, lambda _id, _tenant: None).applies_to(read())


def test_the_values_of_the_sender_and_of_the_settings_are_both_stored(store: PrivateStore) -> None:
    private_fields = PrivateFields(store, FIELDS, lambda _id, _tenant: None)
    sent = read_private(**NAMED, time=None)
    assert sent.filled == ("time",)
    (stored,) = private_fields.commit_and_store([sent]).outcomes
    assert isinstance(stored, ChangedEvent)
    assert b"Zo" not in stored.event_json
    assert [each.path for each in stored.committed] == ["/targets/0/name"]
    opened = {each.path: each.value for each in private_fields.open(stored.event_json)}
    assert opened == {"/targets/0/name": "Zoë", "/context/diagnosis": "F41.1"}
    assert [store.count(subject) for subject in ("p_1", "u_1")] == [1, 1]
    assert (stored.id_bytes, stored.filled) == (sent.id_bytes, sent.filled)


def test_the_same_event_again_becomes_the_same_leaf(store: PrivateStore) -> None:
    private_fields = PrivateFields(store, FIELDS, lambda _id, _tenant: None)
    sent = read(**NAMED)
    first, again = (private_fields.commit_and_store([sent]).outcomes[0] for _ in range(2))
    assert isinstance(first, ReadEvent)
    assert isinstance(again, ReadEvent)
    assert first.event_json == again.event_json
    assert store.count("p_1") == 1


def test_a_salt_is_told_only_for_the_value_and_the_tenant_that_it_belongs_to(
    store: PrivateStore,
) -> None:
    private_fields = PrivateFields(store, FIELDS, lambda _id, _tenant: None)
    sent = event(tenant="acme", **NAMED)
    guess = {"targets": [{"id": "p_1", "name": "a guess"}]}
    reader = PrivateReader(new_id, lambda: 0)

    def salt_of(**changes: Any) -> str:
        changed = {name: value for name, value in (sent | changes).items() if value is not None}
        read = reader.read(msgspec.json.encode(changed))
        (stored,) = private_fields.commit_and_store([read]).outcomes
        assert isinstance(stored, ChangedEvent)
        return stored.committed[0].salt

    salts = [salt_of(), salt_of(**guess), salt_of(tenant="evil"), salt_of(tenant="evil", **guess)]
    salts += [salt_of(tenant=None), salt_of(tenant=None, **guess)]
    assert len(set(salts)) == 6
    assert salt_of() == salts[0]


def test_an_event_of_before_is_the_same_leaf_again_and_its_salt_needs_its_value(
    store: PrivateStore,
) -> None:
    """Salts were derived without tenant and value; what was stored so is not asked to change."""
    private_fields = PrivateFields(store, FIELDS, lambda _id, _tenant: 0)
    sent = read(**NAMED, tenant="acme")
    path = "/targets/0/name"
    salt = hashlib.blake2b(
        f"{sent.event.id}{path}".encode(),
        key=store.subject_key("p_1"),
        digest_size=32,
        person=b"wl/private-salt",
    ).digest()
    old = Opening(path, "p_1", encode_salt(salt), "Zoë")
    store.put([(event_key(str(sent.event.id), "acme"), old)])
    (again,) = private_fields.commit_and_store([sent]).outcomes
    assert isinstance(again, ChangedEvent)
    assert again.committed == (Committed(path=path, salt=old.salt),)
    assert old.commitment in again.event_json.decode()
    for changes in ({"tenant": "evil"}, {"targets": [{"id": "p_1", "name": "a guess"}]}):
        changed = msgspec.json.decode(sent.event_json) | changes
        probe = PrivateReader(new_id, lambda: 0).read(msgspec.json.encode(changed))
        (stored,) = private_fields.commit_and_store([probe]).outcomes
        assert isinstance(stored, ChangedEvent)
        assert stored.committed[0].salt != old.salt


def test_what_was_masked_is_still_reported_of_an_event_with_commitments(
    store: PrivateStore,
) -> None:
    sent = read(**NAMED)
    masked = ChangedEvent(
        event=sent.event,
        event_json=sent.event_json,
        id_bytes=sent.id_bytes,
        filled=sent.filled,
        openings=(),
        masked=(Hit("context.password", "password"),),
    )
    (stored,) = (
        PrivateFields(store, FIELDS, lambda _id, _tenant: None).commit_and_store([masked]).outcomes
    )
    assert isinstance(stored, ChangedEvent)
    assert stored.masked == masked.masked
    assert [type(each) for each in stored.committed] == [Committed]


def test_an_event_whose_field_has_no_subject_fails_alone(store: PrivateStore) -> None:
    sent = [read(**NAMED), read(targets=[{"id": "p_2", "name": "Quill"}], context={"a": 1}), read()]
    fields = (*FIELDS, PrivateField("/context/a", "/context/b"))
    first, failed, last = (
        PrivateFields(store, fields, lambda _id, _tenant: None).commit_and_store(sent).outcomes
    )
    assert isinstance(first, ChangedEvent)
    assert isinstance(failed, EventError)
    assert (failed.rule, failed.field) == ("private", "/context/a")
    assert last is sent[2]
    assert [store.count(subject) for subject in ("p_1", "p_2")] == [1, 0]


def test_a_commitment_of_the_sender_is_not_committed_to_again(store: PrivateStore) -> None:
    fields = (PrivateField("/context/diagnosis", "/actor/id"),)
    sent = read_private()
    (stored,) = (
        PrivateFields(store, fields, lambda _id, _tenant: None).commit_and_store([sent]).outcomes
    )
    assert stored is sent
    assert [
        each.value
        for each in PrivateFields(store, (), lambda _id, _tenant: None).open(sent.event_json)
    ] == ["F41.1"]


def test_the_values_of_an_event_that_is_logged_already_are_not_stored(store: PrivateStore) -> None:
    private_fields = PrivateFields(store, FIELDS, lambda _id, _tenant: 7)
    (stored,) = private_fields.commit_and_store([read_private(**NAMED)]).outcomes
    assert isinstance(stored, ChangedEvent)
    assert private_fields.open(stored.event_json) == ()
    assert [store.count(subject) for subject in ("p_1", "u_1")] == [0, 0]


def test_a_damaged_key_of_a_masked_subject_refuses_its_events_alone(store: PrivateStore) -> None:
    def mask(subject: str) -> str:
        return f"masked.{subject}"

    private_fields = PrivateFields(store, (), lambda _id, _tenant: None, mask_id=mask)
    first = read_private()
    assert private_fields.commit_and_store([first]).outcomes == [first]
    with (store.environment.path / "keys").open("r+b") as keys:
        keys.write(bytes(SLOT_BYTES))
    plain = read()
    refused, logged = private_fields.commit_and_store([read_private(), plain]).outcomes
    assert isinstance(refused, DamagedValueError)
    assert logged == plain


def test_new_subjects_of_many_events_take_one_sync_of_the_keys(
    store: PrivateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs, sync = [], os.fsync

    def count(file: int) -> None:
        syncs.append(file)
        sync(file)

    monkeypatch.setattr(os, "fsync", count)
    private_fields = PrivateFields(store, FIELDS, lambda _id, _tenant: None)
    reads = [read(targets=[{"id": f"p_{number}", "name": "Zo"}]) for number in range(20)]
    stored = private_fields.commit_and_store(reads)
    assert all(isinstance(each, ChangedEvent) for each in stored.outcomes)
    assert len(syncs) == 1
    assert [store.count(f"p_{number}") for number in range(20)] == [1] * 20
