"""The failures a user can mend: each message says what is wrong and what to do."""


class EqcifarError(Exception):
    """A failure with a one-line message meant for the user."""


class UsageError(EqcifarError):
    """What was asked for cannot be done as asked. The command line exits with 2."""


class RunError(EqcifarError):
    """A well-formed request failed while it ran. The command line exits with 1."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the host or a device has no room left."""
    # By its name, for what reads results never imports JAX.
    by_jax = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    text = str(error).lower()
    told = "resource_exhausted" in text or "out of memory" in text
    return isinstance(error, MemoryError) or (by_jax and told)
