"""Every measure by name: what `eqcifar sharpness` and a log of training compute."""

from collections.abc import Callable, Iterable, MutableMapping
from functools import partial

from jaxtyping import PRNGKeyArray

from ..errors import unknown
from ..losses import AnyLoss
from ._estimate import Target
from ._examples import Examples, Rows
from ._measure_rises import line, radius
from ._measure_spectra import eigenvalues, gram, lmax, spectrum
from ._measure_traces import ESTIMATORS, by_products, ntk, trace, unit
from ._memory import MEMORY, check_memory
from ._network import Network
from ._task import Measured, Report, Task

MEASURES: dict[str, Callable[[Task], Measured]] = {
    "trace": trace,
    "ntk": ntk,
    "ntk_mean": partial(ntk, mean=True),
    "unit": unit,
    "lmax": lmax,
    "eigenvalues": eigenvalues,
    "radius": radius,
    **{name: partial(by_products, name=name) for name in ESTIMATORS},
    "gram": gram,
    "landscape": partial(line, name="line", count=1, eigen=False),
    "plane": partial(line, name="plane", count=2, eigen=False),
    "eigenline": partial(line, name="eigenline", count=1, eigen=True),
    "eigenplane": partial(line, name="eigenplane", count=2, eigen=True),
    "spectrum": spectrum,
}


def check_measures(names: Iterable[str]) -> tuple[str, ...]:
    """The names without repetition; `all` stands for every measure.

    **Raises:**

    `UsageError` for a name that is no measure, with the nearest ones.
    """
    chosen: dict[str, None] = {}
    for name in names:
        if name == "all":
            chosen.update(dict.fromkeys(MEASURES))
        elif name in MEASURES:
            chosen[name] = None
        else:
            raise unknown("measure", name, [*MEASURES, "all"])
    return tuple(chosen)


def measure(
    network: Network,
    examples: Examples,
    name: str,
    loss: AnyLoss,
    *,
    probes: int,
    top: int = 5,
    rtol: float | None = None,
    target: Target = "split",
    memory: float = MEMORY,
    key: PRNGKeyArray,
    rows: MutableMapping[str, Rows] | None = None,
    report: Report = lambda done, total, sofar: None,
) -> Measured:
    """Compute one of `MEASURES`.

    **Arguments:**

    - `network`, `examples`: in random order where `rtol` is given.
    - `loss`: as for `eqcifar.losses.get_loss`.
    - `probes`: random vectors an example (traces) or in all (others, which take a few
        at least); 0: the traces of GGN and NTK without any.
    - `top`: how many eigenvalues.
    - `rtol`: where the passes over examples stop, see `output_traces`.
    - `memory`: bytes for per-example gradients; a basis of vectors may take
        four times as much.
    - `key`: with all else equal, the same key gives the same bits.
    - `rows`: pieces of what is unfinished, by name; read and filled.
    - `report`: called with the work done, the whole, and what gives the estimate so
        far. It may raise, to stop.
    """
    (name,) = check_measures([name])
    check_memory(
        f"{probes} probes on {len(examples)} examples",
        8.0 * probes * len(examples),
        memory,
        "ask for fewer, or allow more memory.",
        of=" of results",
    )
    rows = {} if rows is None else rows
    task = Task(
        network, examples, loss, probes, top, rtol, target, memory, key, rows, report
    )
    return MEASURES[name](task)
