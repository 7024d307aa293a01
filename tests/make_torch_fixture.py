"""Store what PyTorch finds for the cases of `reference.py`, for machines without it.

Run from the top of the repository: `python -m tests.make_torch_fixture`. Needed again
only when a case is added or changed. Weights and images are not stored: `reference.py`
makes the same ones again from numpy's Philox bits.
"""

from pathlib import Path

import numpy as np

FIXTURE = Path(__file__).parent / "fixtures" / "torch_models.npz"


def main():
    import torch

    from . import reference, torch_models

    stored = {"torch_version": np.array(torch.__version__)}
    for case in reference.CASES:
        results = torch_models.evaluate(case, *reference.make_inputs(case))
        for name, values in reference.summarise(results).items():
            stored[f"{case}/{name}"] = values
    np.savez_compressed(FIXTURE, allow_pickle=False, **stored)
    print(f"{FIXTURE}: {FIXTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
