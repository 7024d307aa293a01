import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import RunError, UsageError
from ._cache import cache_folder
from ._card import check_card
from ._files import Files

# `datasets` takes two seconds to import and is needed only to fill the cache: the
# functions here import it for themselves.

_PROBE_SECONDS = 4.0
_FORMS = "parquet, imagefolder or save_to_disk form"
_METADATA = "metadata.csv", "metadata.jsonl", "metadata.parquet"


def fetch(hub_id: str) -> Any:
    """Return a hub dataset from the cache of `datasets`, or else from the hub."""
    import datasets
    from datasets import config
    from datasets.exceptions import DatasetNotFoundError

    # The prefix keeps a folder of that name from being taken for the dataset.
    path = f"hf://datasets/{hub_id}"
    if (found := _from_datasets_cache(path)) is not None:
        return found
    if config.HF_HUB_OFFLINE:
        raise RunError(_unreachable(hub_id, "an offline variable is set"))
    if (reason := _probe(config.HF_ENDPOINT)) is not None:
        raise RunError(_unreachable(hub_id, reason))
    try:
        with quiet():
            return datasets.load_dataset(path)
    except (DatasetNotFoundError, FileNotFoundError) as error:
        raise UsageError(
            f"the hub shows no dataset {hub_id!r}: check the name, or run "
            f"`hf auth login` if it is private or gated. ({_line(error)})"
        ) from error
    except (ConnectionError, TimeoutError) as error:
        raise RunError(_unreachable(hub_id, _line(error))) from error
    except Exception as error:
        # Whatever httpx, pyarrow or `datasets` say of what they cannot read.
        raise RunError(f"loading {hub_id!r} failed: {_line(error)}") from error


@contextlib.contextmanager
def open_folder(name: str, files: Files) -> Iterator[Any]:
    """Give a local dataset, leaving nothing behind in the cache of `datasets`.

    It is read from a scratch folder of links to the files: there, `datasets` finds what
    lies behind linked folders, and takes no part of the path for a pattern.

    **Arguments:**

    - `name`: of the folder, for messages.
    - `files`: what is in it, as `list_files` finds it.
    """
    import datasets
    from datasets.exceptions import DatasetGenerationError

    check_card(name, files)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "folder")
        folder.mkdir()
        for relative, path in files.items():
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            (folder / relative).symlink_to(path)
        try:
            with quiet():
                if _is_saved_to_disk(folder):
                    found = datasets.load_from_disk(str(folder))
                else:
                    found = datasets.load_dataset(str(folder), cache_dir=scratch)
        except Exception as error:
            # How `datasets` answers to parquet and to its own form without rows.
            if "corresponds to no data" in str(error) or isinstance(error, IndexError):
                raise UsageError(
                    f"a split of {name!r} has no examples{metadata_hint(files)}: fill "
                    f"or remove it"
                ) from error
            if isinstance(error, DatasetGenerationError):
                error = error.__cause__ or error  # What it wraps says more.
            reason = _line(error).replace(str(folder), name)
            raise UsageError(
                f"cannot read the folder {name!r} as a dataset in {_FORMS}: {reason}"
            ) from error
        yield found


def metadata_hint(files: Files) -> str:
    """What a `metadata.csv` does to images that it does not list, if there is one."""
    lists = [path for path in files if os.path.basename(path) in _METADATA]
    if not lists:
        return ""
    return (
        f" (beside {lists[0]} only the images that it lists are read, in every split, "
        f"and folders name no classes: list all with a column 'label', or remove it)"
    )


def unlisted(found: Any, files: Files) -> list[str]:
    """Say how many images a `metadata.csv` leaves out."""
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    lists = [path for path in files if os.path.basename(path) in _METADATA]
    kinds = tuple(ImageFolder.EXTENSIONS)
    images = sum(path.lower().endswith(kinds) for path in files)
    missing = images - sum(len(rows) for rows in found.values()) if lists else 0
    if missing <= 0:
        return []
    return [f"{missing} of {images} images are left out, for {lists[0]} lists them not"]


def _is_saved_to_disk(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in ("dataset_dict.json", "state.json"))


def _from_datasets_cache(path: str) -> Any:
    import datasets
    from datasets import config

    offline = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = True
    try:
        with quiet():
            return datasets.load_dataset(path)
    except (ConnectionError, FileNotFoundError, ValueError):
        return None
    finally:
        config.HF_HUB_OFFLINE = offline


def _probe(endpoint: str) -> str | None:
    """Say within seconds why the hub cannot be reached; left alone, that takes 23 s."""
    from huggingface_hub import get_session

    reasons = [f"no answer within {_PROBE_SECONDS:.0f} s"]

    def ask():
        try:
            get_session().head(endpoint, timeout=_PROBE_SECONDS)
            reasons[:] = []
        except Exception as error:
            reasons[:] = [_line(error)]

    # In a thread, since no timeout covers the look-up of the host's address.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS + 1)
    return reasons[0] if reasons else None


def _unreachable(hub_id: str, reason: str) -> str:
    from datasets import config

    return (
        f"Cannot load {hub_id!r}: {config.HF_ENDPOINT} was not reached "
        f"({reason}), and no copy is in {config.HF_DATASETS_CACHE} "
        f"(HF_HOME, HF_DATASETS_CACHE) or {cache_folder()} (EQCIFAR_CACHE). "
        f"Unset HF_HUB_OFFLINE and HF_DATASETS_OFFLINE where there is a network, or "
        f"give a local folder in {_FORMS} with `--dataset FOLDER`, or train on "
        f"procedural images with `--dataset synthetic`."
    )


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": ")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep `datasets` from logging, and from drawing bars where nobody looks."""
    import datasets

    level = datasets.logging.get_verbosity()
    bars = datasets.utils.are_progress_bars_disabled()
    datasets.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
