"""Errors that a person can cause, and how a program ends with one."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.common import text

# Every program imports this module before it prints.
text.tolerant_output()


def _one_line_for_ctrl_c(kind: type[BaseException], error: BaseException, trace) -> None:
    """A traceback for every exception that nobody catches, but not for Ctrl-C."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped: Ctrl-C", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _one_line_for_ctrl_c


class UserError(Exception):
    """Something a person can mend: the message says in one line what, where and what to do.

    Wherever it is shown or kept, addresses in it have no password.
    """

    def __str__(self) -> str:
        """The message; what it quotes of files and names can't steer a terminal."""
        # PyTorch puts the traceback of a loader's process before it, and ends the line.
        whole = super().__str__()
        _, found, message = whole.rpartition(f"{UserError.__module__}.{type(self).__qualname__}: ")
        return text.lines(text.without_password(message.removesuffix("\n") if found else whole))


class SharedError(UserError):
    """Ends all processes of a training alike: the first one tells it."""


class StoppedError(SharedError):
    """A signal asked to stop; what was reached is on the disk."""


@contextmanager
def os_errors_as_user_errors() -> Iterator[None]:
    """Ends what the machine refuses (permissions, a full disk), and damaged models, in one line.

    Raises:
        UserError: in place of such an OSError (others are mistakes of the code and come through), or of
            `portable.DamagedError`, which can't derive from it.
    """
    try:
        yield
    except ValueError as error:
        from pipeline.portable import DamagedError

        if not isinstance(error, DamagedError):
            raise
        raise UserError(str(error)) from error
    except OSError as error:
        refused = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)
        refused += (errno.ENAMETOOLONG, errno.ELOOP)
        if error.errno not in refused:
            raise
        name = text.shortened(error.filename or "a file", 200)
        raise UserError(
            f"{name} can't be read or written ({error.strerror}); make room or give permission, or name "
            "another place"
        ) from error


@contextmanager
def in_one_line() -> Iterator[None]:
    """Ends a program with status 1 where it raises what a person can mend; decorates its `main`."""
    try:
        with os_errors_as_user_errors():
            yield
    except UserError as error:
        sys.exit(f"error: {error}")
