"""What a front end is given when it is started: on its standard input, as MessagePack."""

import msgspec

from ledger.service.settings import Settings


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger and the place of one front end.

    `number`: counted from 0, of `processes`. `link`, `listening` and `counts` are file descriptors:
    the socket to the sequencer's process, the sockets of the address, the memory of shared counts.
    `queries`: the path of the socket of the query process.
    """

    directory: str
    settings: Settings
    number: int
    processes: int
    link: int
    listening: tuple[int, ...]
    counts: int
    counts_key: bytes
    verifier_keys: tuple[str, ...]
    queries: str


encode_start = msgspec.msgpack.Encoder().encode
decode_start = msgspec.msgpack.Decoder(Start).decode
