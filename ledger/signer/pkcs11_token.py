"""The Ed25519 keys of a PKCS#11 token, such as an HSM, a smart card or SoftHSM.

Only keys with a public key object of the same CKA_ID are found: a private one shows no public key.
Used from one thread at a time, as many modules want it.

Source: PKCS#11 3.0, sections 2.3.10 (CKK_EC_EDWARDS) and 2.3.14 (CKM_EDDSA).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from ledger_core.tlog.errors import MalformedError, UnavailableError

PUBLIC_KEY_BYTES: Final = 32
_POINT_PREFIX: Final = b"\x04\x20"
"""DER of an OCTET STRING of 32 bytes, which CKA_EC_POINT is; some modules have the bytes alone."""


class TokenKey(NamedTuple):
    """One key: its label, and the handle that signs."""

    label: str
    handle: Any


class Pkcs11Token:
    """A token that is logged into. It logs in again after an error, but not by a refused PIN."""

    def __init__(self, module: Path, *, label: str, pin: str) -> None:
        """Raises: UnavailableError when there is no such token, or the PIN is wrong."""
        self._module: Final = module
        self._label: Final = label
        self._pin: Final = pin
        self._refusal = ""
        self._session: Any = None
        self._keys: Mapping[bytes, TokenKey] = {}
        self.open()

    def open(self) -> None:
        """Log in, and find the keys. Raises: as the constructor, MalformedError without a key."""
        pkcs11 = _pkcs11()
        if self._refusal:
            raise UnavailableError(self._refusal)
        self.close()
        try:
            token = pkcs11.lib(str(self._module)).get_token(token_label=self._label)
            self._session = token.open(user_pin=self._pin)
            self._keys = _find_keys(pkcs11, self._session)
        except (pkcs11.PKCS11Error, RuntimeError) as error:
            self.close()
            reason = f"the token {self._label!r} of {self._module} can't be used: {_explain(error)}"
            # A token locks itself after a few wrong PINs.
            if type(error).__name__.startswith("Pin"):
                reason += (
                    "; this PIN is not tried again: put the right one into its file and restart"
                )
                self._refusal = reason
            raise UnavailableError(reason) from None
        if not self._keys:
            self.close()
            raise MalformedError(
                f"the token {self._label!r} has no Ed25519 key with its public key beside it"
            )

    def keys(self) -> Mapping[bytes, str]:
        """The labels of the keys, by the 32 bytes of their public keys."""
        return {public_key: key.label for public_key, key in self._keys.items()}

    def sign(self, public_key: bytes, message: bytes) -> bytes:
        """Sign bytes. Raises: KeyError for a key that is not there, UnavailableError."""
        pkcs11 = _pkcs11()
        key = self._keys[public_key]
        try:
            return bytes(key.handle.sign(message, mechanism=pkcs11.Mechanism.EDDSA))
        except pkcs11.PKCS11Error as error:
            raise UnavailableError(f"the token does not sign: {_explain(error)}") from None

    def close(self) -> None:
        """Log out."""
        session, self._session, self._keys = self._session, None, {}
        if session is not None:
            try:
                session.close()
            except _pkcs11().PKCS11Error:  # The token is gone, and the session with it.
                return


def _find_keys(pkcs11: Any, session: Any) -> dict[bytes, TokenKey]:
    attribute, edwards = pkcs11.Attribute, pkcs11.KeyType.EC_EDWARDS
    public_keys = {
        key[attribute.ID]: bytes(key[attribute.EC_POINT]).removeprefix(_POINT_PREFIX)
        for key in session.get_objects(
            {attribute.CLASS: pkcs11.ObjectClass.PUBLIC_KEY, attribute.KEY_TYPE: edwards}
        )
    }
    found = {}
    for key in session.get_objects(
        {attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY, attribute.KEY_TYPE: edwards}
    ):
        public_key = public_keys.get(key[attribute.ID], b"")
        if len(public_key) == PUBLIC_KEY_BYTES:
            found[public_key] = TokenKey(str(key.label or ""), key)
    return found


def _pkcs11() -> Any:
    """The binding. Raises: UnavailableError saying what to install."""
    try:
        import pkcs11
    except ModuleNotFoundError:
        raise UnavailableError(
            "a PKCS#11 token needs the extra pkcs11: pip install 'witnessed-ledger[pkcs11]'"
        ) from None
    return pkcs11


def _explain(error: Exception) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
