"""Passwords: their hashes, and random ones."""

import functools
import secrets
import unicodedata

import argon2

from catalog.language import _, number
from pipeline.common.errors import UserError

MIN_LENGTH = 10  # characters
MAX_LENGTH = 1000
_GROUPS, _GROUP = 4, 4  # of a random password: 79 bits
_CHARACTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that look alike: people type it
_HASHER = argon2.PasswordHasher()  # argon2id with the parameters that RFC 9106 recommends


def hashed(password: str) -> str:
    """The hash to store.

    Raises:
        UserError: the password is too short or too long.
    """
    if len(password) < MIN_LENGTH:
        raise UserError(_("a password has at least {count} characters").format(count=MIN_LENGTH))
    if len(password) > MAX_LENGTH:
        raise UserError(_("a password has at most {count} characters").format(count=number(MAX_LENGTH)))
    return _HASHER.hash(_normalized(password))


def matches(password: str, stored: str | None) -> bool:
    """Whether it is the password of a stored hash.

    Without a hash, since nobody has the name that was typed, the answer is no after the same time.
    """
    try:
        return _HASHER.verify(stored or _of_nobody(), _normalized(password)) and stored is not None
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


def is_outdated(stored: str) -> bool:
    """Whether a stored hash was made with other parameters than those of new ones."""
    return _HASHER.check_needs_rehash(stored)


def generate() -> str:
    """A random password."""
    groups = ("".join(secrets.choice(_CHARACTERS) for _index in range(_GROUP)) for _index in range(_GROUPS))
    return "-".join(groups)


def _normalized(password: str) -> bytes:
    """Keyboards send the same letter as one character or as two."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")


@functools.cache
def _of_nobody() -> str:
    """The hash of a password that nobody knows."""
    return _HASHER.hash(secrets.token_bytes(16))
