"""Errors for untrusted images and model folders."""


class UnreadableError(ValueError):
    """Bytes that are not a usable image; the message is the reason, suitable for users."""


class DamagedError(ValueError):
    """A folder whose files are invalid or differ from their checksums; the message names them."""


def reason(error: BaseException) -> str:
    """The message of an error in one line; its type name if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__
