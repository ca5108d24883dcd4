"""Store whose entries only the ranks of one attempt can write: each carries a code made with their secret.

Whoever reaches the port can write into a store, list its keys and read them. What a stranger writes has no
valid code, and is treated as if it were not there. Counters (`add`) have none: a wrong one ends a wait early.
"""

import hashlib
import hmac
from collections.abc import Sequence

from torch.distributed import PrefixStore, Store

_CODE_CHARS = 64  # SHA-256, in hexadecimal


def seal_of(scope: str, secret: str | None) -> str:
    """By which ranks find out whether they have the same secret, without telling it; "" for none."""
    return "" if secret is None else _code(secret, "seal", scope)


class SealedStore(PrefixStore):
    """The entries of one scope. torch's own (`world/…`, by a PrefixStore over this one) are not sealed."""

    def __init__(self, scope: str, store: Store, secret: str) -> None:
        super().__init__(f"{scope}/{_code(secret, 'keys', scope)}", store)
        self._scope, self._secret = scope, secret

    def set(self, key: str, value: str) -> None:
        """As torch's."""
        super().set(key, self._sealed(key, value))  # type: ignore[arg-type]  # bytes too

    def get(self, key: str) -> bytes:
        """As torch's.

        Raises:
            LookupError: if a stranger has replaced the entry.
        """
        value = self._opened(key, super().get(key))
        if value is None:
            raise LookupError(f"the entry {key} of the store is not of this attempt")
        return value

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all of them are there, and of this attempt."""
        return all(
            super(SealedStore, self).check([key])
            and self._opened(key, super(SealedStore, self).get(key)) is not None
            for key in keys
        )

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        """The value of a rank that was faster, else `desired`.

        Args:
            expected: must be "": nothing.
        """
        assert not expected, "only a first value is set"
        sealed = self._sealed(key, desired)
        found: str | bytes = ""
        while True:  # a stranger's entry is replaced
            found = super().compare_set(key, found, sealed)  # type: ignore[arg-type]  # bytes too
            value = self._opened(key, found)
            if value is not None:
                return value

    def _sealed(self, key: str, value: str) -> bytes:
        return _code(self._secret, self._scope, key, value).encode() + value.encode()

    def _opened(self, key: str, content: bytes) -> bytes | None:
        code, value = content[:_CODE_CHARS], content[_CODE_CHARS:]
        try:
            own = _code(self._secret, self._scope, key, value.decode())
        except UnicodeDecodeError:
            return None
        return value if hmac.compare_digest(code, own.encode()) else None


def _code(secret: str, *parts: str) -> str:
    message = b"".join(len(part.encode()).to_bytes(8, "big") + part.encode() for part in parts)
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
