"""The cookie that keeps a person signed in: the account and its session key, signed and with a time.

`SameSite=lax` lets a link in a message open a page for somebody who is signed in; `SameOrigin` refuses all
else that comes from other sites. By https the cookie has the prefix ``__Host-``: browsers then accept it from
this very host only, so that no other host of the domain can sign somebody in under a foreign account.
"""

import contextlib
import hashlib
import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.responses import Response

from catalog.store.tables import Account

SECONDS = 12 * 3600
_KEY_BYTES = 32

_log = logging.getLogger(__name__)


class Sessions:
    """Starts, reads and ends sessions; `key` is that of `key_in`."""

    def __init__(self, key: bytes):
        signer = {"digest_method": hashlib.sha256}
        self._serializer = URLSafeTimedSerializer(key, salt="session", signer_kwargs=signer)

    def start(self, response: Response, account: Account, scheme: str) -> None:
        """Signs a person in; `scheme` is that of the request."""
        value = self._serializer.dumps([account.id, account.session_key])
        is_secure = scheme == "https"
        response.set_cookie(
            _cookie(scheme), value, max_age=SECONDS, secure=is_secure, httponly=True, samesite="lax"
        )

    def read(self, cookies: Mapping[str, str], scheme: str) -> tuple[int, str] | None:
        """Account id and session key; None if there is no valid cookie. The account may have ended it."""
        try:
            account_id, key = self._serializer.loads(cookies.get(_cookie(scheme), ""), max_age=SECONDS)
        except BadData:
            return None
        return account_id, key

    @staticmethod
    def end(response: Response, scheme: str) -> None:
        """Deletes the cookie."""
        response.delete_cookie(_cookie(scheme), secure=scheme == "https", httponly=True, samesite="lax")


def _cookie(scheme: str) -> str:
    """The cookie's name, which no other program on this machine has: browsers ignore ports."""
    return "__Host-petfaces-catalog" if scheme == "https" else "petfaces-catalog"


def key_in(file: Path) -> bytes:
    """The key in a file; a new one if the file is missing, incomplete, or others can read it."""
    for _attempt in range(2):
        with contextlib.suppress(FileNotFoundError):
            with open(file, "rb") as source:
                is_private = not os.fstat(source.fileno()).st_mode & 0o077
                key = source.read()
            if is_private and len(key) == _KEY_BYTES:
                return key
            if not is_private:
                _log.warning("others could read %s: it is replaced, and everybody signs in again", file)
            file.unlink(missing_ok=True)
        part = file.with_name(f"{file.name}.{secrets.token_hex(8)}.part")
        with open(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as target:
            target.write(secrets.token_bytes(_KEY_BYTES))
            target.flush()
            os.fsync(target.fileno())
        try:
            os.link(part, file)
        except FileExistsError:  # another process was faster; its key is read
            pass
        except OSError:  # the file system has no hard links; one server runs in a folder
            os.replace(part, file)
        part.unlink(missing_ok=True)
    return file.read_bytes()
