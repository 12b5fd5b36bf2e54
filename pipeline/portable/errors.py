"""What is wrong with images and folders of strangers."""


class UnreadableError(ValueError):
    """Bytes that are no usable picture; the message is the reason, fit to show a person."""


class DamagedError(ValueError):
    """A folder whose files are not those that were sealed; the message names them."""


def reason(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
