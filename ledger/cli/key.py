"""`ledger key`: the public side of the keys of a ledger, a mirror or a witness."""

import secrets
from pathlib import Path
from typing import Final, NamedTuple

import click

from ledger.cli.folders import LEDGER, MIRROR, TLOG_MIRROR, WITNESS, directory_of, kind_of
from ledger.cli.options import agent_key, agent_options
from ledger.mirror.data_dir import MirrorPaths
from ledger.runtime.encrypted_keys import read_passphrase
from ledger.runtime.keys import decrypt_keys, encrypt_keys, read_keys
from ledger.service.data_dir import KEYS_MAX, DirectoryPaths, read_signers
from ledger.service.key_rotation import divide, retire, rotate
from ledger.service.operator_events import record_act
from ledger.service.start_record import changing_files
from ledger.witness.data_dir import WitnessPaths
from ledger_client.cli.client_options import EXISTING_FILE
from ledger_client.cli.console import json_option, note, print_json
from ledger_core.tlog.keys import SEED_BYTES

KEY_FILES: Final = ("key", "cosigner/key", "policy")
"""What these commands change in the folder of a ledger or a mirror."""


class PublicKeys(NamedTuple):
    """The name and the verifier keys of a folder, and the lines of a policy that trust them."""

    kind: str
    verifier_keys: list[str]
    policy_lines: list[str]


@click.group("key")
def command() -> None:
    """Show the public side of keys, and put keys under a passphrase. None prints a private one."""


@command.command("encrypt")
@directory_of(LEDGER, MIRROR, WITNESS, TLOG_MIRROR)
@click.option(
    "--passphrase-file",
    required=True,
    type=EXISTING_FILE,
    help="A file whose first line is the passphrase, which its owner alone may read.",
)
@json_option
def encrypt(directory: Path, passphrase_file: Path, as_json: bool) -> None:
    """Put the signing key of DIRECTORY under a passphrase, or under another one.

    Whoever starts its service then gives the passphrase: LEDGER_KEY_PASSPHRASE_FILE,
    LEDGER_KEY_PASSPHRASE_FD, or the credential ledger-key-passphrase of systemd.
    """
    path = key_file(directory)
    with changing_files(DirectoryPaths(directory), *KEY_FILES):
        encrypt_keys(path, read_passphrase(passphrase_file))
    _record(directory, "ledger.key.encrypted")
    if as_json:
        print_json({"key": str(path), "encrypted": True})
        return
    note(f"{path} is encrypted; keep the passphrase where the key's offline copy is not")


@command.command("decrypt")
@directory_of(LEDGER, MIRROR, WITNESS, TLOG_MIRROR)
@click.option(
    "--passphrase-file",
    type=EXISTING_FILE,
    help="A file with the passphrase. Default: as the service gets it.",
)
@json_option
def decrypt(directory: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Take the passphrase from the signing key of DIRECTORY."""
    path = key_file(directory)
    passphrase = None if passphrase_file is None else read_passphrase(passphrase_file)
    with changing_files(DirectoryPaths(directory), *KEY_FILES):
        decrypt_keys(path, passphrase)
    _record(directory, "ledger.key.decrypted")
    if as_json:
        print_json({"key": str(path), "encrypted": False})
        return
    note(f"{path} has no passphrase any more")


@command.command("rotate")
@directory_of(LEDGER)
@agent_options
@json_option
def rotate_(directory: Path, ssh_agent: Path | None, ssh_key: Path | None, as_json: bool) -> None:
    """Begin to replace the signing key of the ledger in DIRECTORY by a new one.

    From its next start on the service signs with both, and the policy in DIRECTORY lists both. Run
    it again if it was interrupted. ledger key retire ends it.
    """
    paths = DirectoryPaths(directory)
    try:
        key = agent_key(read_signers(paths)[0].verifier.name, ssh_agent, ssh_key)
        with changing_files(paths, *KEY_FILES):
            keys = rotate(paths, make_seed=lambda: secrets.token_bytes(SEED_BYTES), key=key)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    vkeys = [str(signer.verifier) for signer in keys.current]
    if as_json:
        old = [str(signer.verifier) for signer in keys.old]
        print_json({"new": vkeys, "old": old, "policy": str(paths.policy)})
        return
    click.echo("\n".join(f"log {vkey}" for vkey in vkeys))
    note(f"{paths.policy} has this; keep a copy of {paths.key} offline")
    note("next: start the service again, which then signs with both keys")
    note("then: give the policy to everybody who verifies, and the new key to each witness")
    note(f"at the end: ledger key retire {directory}")


@command.command("retire")
@directory_of(LEDGER)
@click.option(
    "--distrust",
    "is_distrusted",
    is_flag=True,
    help="Take the old key out of the policy too, after a theft: nothing that it alone has signed "
    "verifies by this policy then.",
)
@json_option
def retire_(directory: Path, is_distrusted: bool, as_json: bool) -> None:
    """End the rotation of the signing key of the ledger in DIRECTORY: the old one is deleted.

    From its next start on the service signs with the new key alone.
    """
    paths = DirectoryPaths(directory)
    try:
        with changing_files(paths, *KEY_FILES):
            keys = retire(paths, is_distrusted=is_distrusted)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    old = [str(signer.verifier) for signer in keys.old]
    if as_json:
        new = [str(signer.verifier) for signer in keys.current]
        print_json({"new": new, "old": old, "policy": str(paths.policy)})
        return
    click.echo("\n".join(old))
    note("next: start the service again, which then signs with the new key alone")
    note("then, on each witness: ledger witness remove-key WITNESS_DIR --vkey OLD_VKEY")


def _record(directory: Path, action: str) -> None:
    """Record an act upon the key of a ledger; a mirror and a witness log no events of their own."""
    paths = DirectoryPaths(directory)
    if key_file(directory) == paths.key and paths.access.exists():
        record_act(paths, action)


def key_file(directory: Path) -> Path:
    """The file of the signing key of a ledger, a mirror or a witness."""
    mirror = MirrorPaths(directory)
    return mirror.cosigner / "key" if mirror.is_mirror else directory / "key"


@command.command("show")
@directory_of(LEDGER, MIRROR, WITNESS, TLOG_MIRROR)
@json_option
def show(directory: Path, as_json: bool) -> None:
    """Print the verifier keys of DIRECTORY, each with the line that trusts it in a policy.

    DIRECTORY is of a ledger, a mirror, a witness or a mirror of logs. They come from the private
    keys alone, so a policy that was lost can be made again.
    """
    found = public_keys(directory)
    if as_json:
        print_json(found._asdict())
        return
    click.echo("\n".join(found.policy_lines))
    if found.kind == "log":
        if divide(read_signers(DirectoryPaths(directory))).old:
            note("the key is being replaced: the last of these is the new one")
        note("a policy also has a line for each witness, and a line quorum NAME or quorum none")
    elif found.kind == "tlog-mirror":
        note("put it into the policy of each log that wants its events there, with no URL")
    else:
        note("put it into the policy of each log that asks it to cosign, with its URL at the end")


def public_keys(directory: Path) -> PublicKeys:
    """The public keys of a folder. Raises: UnavailableError, MalformedError."""
    witness, mirror = WitnessPaths(directory), MirrorPaths(directory)
    if mirror.is_mirror:
        witness = WitnessPaths(mirror.cosigner)
    is_log_mirror = kind_of(directory) is TLOG_MIRROR
    if witness.heads.exists() or is_log_mirror:
        keys = [key.verifier_key for key in read_keys(witness.key, keys_max=KEYS_MAX)]
        names = [f"{key.name}{f'-{number}' if number else ''}" for number, key in enumerate(keys)]
        lines = [f"witness {name} {key}" for name, key in zip(names, keys, strict=True)]
        kind = "mirror" if mirror.is_mirror else "tlog-mirror" if is_log_mirror else "witness"
        return PublicKeys(kind, [*map(str, keys)], lines)
    vkeys = [str(signer.verifier) for signer in read_signers(DirectoryPaths(directory))]
    return PublicKeys("log", vkeys, [f"log {vkey}" for vkey in vkeys])
