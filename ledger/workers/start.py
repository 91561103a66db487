"""The parameters of a front end at its start, on its standard input, as MessagePack.

It may be of another version than the process that starts it (`messages`), and takes what it knows.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from ledger.service.loaded_files import LoadedFiles
from ledger.service.settings import Settings
from ledger.workers.messages import Versions


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger and the place of one front end.

    `number`: counted from 0, of `processes`. `part`: its own one of `parts` of the shared counts.
    `link`, `listening` and `counts` are file descriptors: the socket to the sequencer's process,
    the sockets of the address, the memory of shared counts. `queries`: the path of the socket of
    the query process. `versions`: those that the sequencer's process speaks. `files`: what it has
    loaded; None from one that was made before it sent them.
    """

    directory: str
    settings: Settings
    number: int
    processes: int
    part: int
    parts: int
    link: int
    listening: tuple[int, ...]
    counts: int
    counts_key: bytes
    verifier_keys: tuple[str, ...]
    queries: str
    versions: Versions = Versions()
    files: LoadedFiles | None = None


encode_start = msgspec.msgpack.Encoder().encode


def decode_start(data: bytes) -> Start:
    """What `encode_start` encoded, here or in another version."""
    fields = msgspec.msgpack.decode(data)
    return msgspec.convert({**fields, "settings": settings_of(fields["settings"])}, Start)


def settings_of(fields: Mapping[str, Any]) -> Settings:
    """The settings that another process sent, without those that this version does not know."""
    known = {name: fields[name] for name in Settings.__struct_fields__ if name in fields}
    return msgspec.convert(known, Settings)
