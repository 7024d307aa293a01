"""The failures a user can mend: each message says what is wrong and what to do."""


class EqcifarError(Exception):
    """A failure with a one-line message meant for the user."""


class UsageError(EqcifarError):
    """What was asked for cannot be done as asked. The command line exits with 2."""


class RunError(EqcifarError):
    """A well-formed request failed while it ran. The command line exits with 1."""
