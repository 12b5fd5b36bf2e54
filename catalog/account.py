"""The account that runs this process."""

import getpass


def name() -> str:
    """Its name, which is recorded with each label."""
    try:
        return getpass.getuser()[:100]
    except (KeyError, OSError):  # a container without a user database
        return "unknown"
