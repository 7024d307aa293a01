from eqcifar.errors import UsageError

# Bytes: for what grows with the examples, and for vectors as large as the network.
MEMORY, BASIS_MEMORY = 1e9, 4e9


def check_memory(
    what: str, needed: int | float, allowed: int | float, remedy: str, *, of: str = ""
) -> None:
    """Refuse what takes more bytes than it may.

    **Raises:**

    `UsageError`: `what` takes so many GB, `of` what, and the `remedy`.
    """
    if needed > allowed:
        raise UsageError(
            f"{what} take {needed / 1e9:.2g} GB{of}, more than the "
            f"{allowed / 1e9:.2g} GB allowed: {remedy}"
        )
