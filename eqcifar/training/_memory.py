from typing import Any


def planned_memory(jitted: Any, *arguments: Any) -> int | None:
    """Bytes that a compiled call holds on each device at its peak, as XLA planned it.

    Arguments, results and temporaries, what is donated once. What a library such as
    cuDNN takes beside it is not known to the compiler.

    **Arguments:**

    - `jitted`: made by `eqx.filter_jit`. It is compiled, for the call to find.
    - `arguments`: of the call.

    **Returns:**

    `None` where the backend does not tell.
    """
    compiled: Any = jitted.lower(*arguments).compile()
    stats = compiled.compiled.memory_analysis()
    if stats is None:
        return None
    return (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        - stats.alias_size_in_bytes
        + stats.temp_size_in_bytes
    )
