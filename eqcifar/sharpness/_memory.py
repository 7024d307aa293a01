from eqcifar.errors import UsageError


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
