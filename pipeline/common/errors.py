"""Errors that users can cause and fix, and how programs exit on them."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.common import log, text

# Here because every program imports this module before it prints.
text.tolerant_output()


def _excepthook(kind: type[BaseException], error: BaseException, trace) -> None:
    """Prints one line instead of a traceback for KeyboardInterrupt."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped: Ctrl-C", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _excepthook


class UserError(Exception):
    """An error that a user can fix; its one-line message says what is wrong, where, and what to do.

    Passwords in URLs are masked wherever the message is shown or stored.
    """

    def __str__(self) -> str:
        """The message, with control characters escaped and passwords masked."""
        # PyTorch prepends the traceback of a DataLoader worker and appends a newline.
        full = super().__str__()
        _, found, message = full.rpartition(f"{UserError.__module__}.{type(self).__qualname__}: ")
        return text.lines(text.without_password(message.removesuffix("\n") if found else full))


class SharedError(UserError):
    """An error that stops all ranks of a training run; only rank 0 reports it."""


class StoppedError(SharedError):
    """A signal requested a stop; the progress is saved."""


@contextmanager
def os_errors_as_user_errors() -> Iterator[None]:
    """Turns permission and disk-full errors, and damaged models, into a one-line UserError.

    Raises:
        UserError: replaces such an OSError (others are bugs and pass through) or a `portable.DamagedError`,
            which can't derive from UserError.
    """
    try:
        yield
    except ValueError as error:
        from pipeline.portable import DamagedError

        if not isinstance(error, DamagedError):
            raise
        raise UserError(str(error)) from error
    except OSError as error:
        user_errnos = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)
        user_errnos += (errno.ENAMETOOLONG, errno.ELOOP)
        if error.errno not in user_errnos:
            raise
        name = text.shortened(error.filename or "a file", 200)
        raise UserError(
            f"{name} can't be read or written ({error.strerror}); free disk space, change the "
            "permissions, or use another folder"
        ) from error


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Exits with status 1 and a one-line message on a UserError."""
    try:
        with os_errors_as_user_errors():
            yield
    except UserError as error:
        log.fail(error)
