"""Runs on the Hugging Face hub."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import EqcifarError, RunError, UsageError
from ._files import cannot_write, read_json, write_json
from ._run import Run

# All that a run on the hub consists of: nothing else is sent, and nothing else fetched.
HUB_FILES = (
    *("README.md", "config.json", "env.json", "status.json", "model.safetensors"),
    *("log.tsv", "sharpness.tsv", "sharpness_log.tsv", "stability.tsv"),
)


_NEEDED = "config.json", "model.safetensors"


# Paths make one slash of two.
_NAME = re.compile(r"hf:/{1,2}([^@]+)(?:@(.+))?")


def locate_run(source: str | os.PathLike[str]) -> Path:
    """The folder or file that stands for a run where one is named.

    **Arguments:**

    - `source`: a path; or `hf://org/name`, or `hf://org/name@revision`, which is pulled
        as by `pull_run`.

    **Returns:**

    The path itself, or that of the folder that was pulled.

    **Raises:**

    `UsageError` and `RunError` as `pull_run`.
    """
    found = _NAME.fullmatch(os.fspath(source))
    return Path(source) if found is None else pull_run(*found.groups()).path


def pull_run(
    repo: str, revision: str | None = None, root: str | os.PathLike[str] = "results"
) -> Run:
    """Fetch a run from the Hugging Face hub, with its weights, log and sharpness.

    Only files called as those of a run are fetched, and nothing in them is ever run.
    `HF_ENDPOINT` names another hub, and `HF_TOKEN` or `hf auth login` a user of it.

    **Arguments:**

    - `repo`: `org/name`.
    - `revision`: a branch, a tag or a commit; the newest commit by default.
    - `root`: the folder of all runs.

    **Returns:**

    The run in `hub/org/name/COMMIT` below `root`, where measures of it are kept too;
    `hub.json` there has the whole commit. What is there already is not fetched anew; a
    whole commit that is there needs no network.

    **Raises:**

    `UsageError` when the hub has no such run; `RunError` when it cannot be reached.
    """
    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        there = _folder(root, repo, revision)
        if there.is_dir():
            return Run(there)
    with asking_the_hub(repo, revision) as api:
        commit = api.model_info(repo, revision=revision).sha
        folder = _folder(root, repo, commit)
        if folder.is_dir():
            return Run(folder)
        with _making(folder) as scratch:
            api.snapshot_download(
                *(repo,), revision=commit, allow_patterns=HUB_FILES, local_dir=scratch
            )
            shutil.rmtree(scratch / ".cache", ignore_errors=True)
            _check(scratch, repo)
            write_json(scratch / "hub.json", {"repo": repo, "revision": commit})
    return Run(folder)


@contextlib.contextmanager
def asking_the_hub(repo: str, revision: str | None = None) -> Iterator[Any]:
    """An `HfApi`, whose failures become a line that says what to do.

    **Arguments:**

    - `repo`, `revision`: of what.

    **Raises:**

    `UsageError` and `RunError` for whatever it raises.
    """
    from huggingface_hub import HfApi, errors
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    bars = not are_progress_bars_disabled()
    disable_progress_bars()
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="eqcifar")
    try:
        yield api
    except EqcifarError:
        raise
    except errors.HFValidationError as error:
        raise UsageError(
            f"{repo!r} is no name of a repository: give org/name"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UsageError(f"{repo} on {api.endpoint} has no {revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise UsageError(
            f"{api.endpoint} shows no {repo!r}: check the name, or run `hf auth login` "
            "if it is private"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UsageError(
                f"{api.endpoint} does not let you do this to {repo!r}: run `hf auth "
                "login` with a token that may, or set HF_TOKEN"
            ) from error
        raise RunError(f"{api.endpoint} failed: {_line(error)}") from error
    except (RuntimeError, ValueError) as error:  # of an upload that broke off
        raise RunError(f"{api.endpoint} failed: {_line(error)}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.filename:
            raise cannot_write(Path(error.filename), error) from error
        # Whatever its client of HTTP says, which is not the same in all its versions.
        offline = isinstance(error, errors.OfflineModeIsEnabled)
        reason = "HF_HUB_OFFLINE is set" if offline else _line(error)
        raise RunError(
            f"{api.endpoint} was not reached ({reason}): name the folder of a run that "
            "was pulled before, or try again where there is a network"
        ) from error
    finally:
        if bars:
            enable_progress_bars()


def _folder(root: str | os.PathLike[str], repo: str, commit: str) -> Path:
    return Path(root, "hub", *repo.split("/"), commit[:12])


@contextlib.contextmanager
def _making(folder: Path) -> Iterator[Path]:
    """A scratch folder that becomes `folder` at the end, or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tmp-") as scratch:
        made = Path(scratch, folder.name)
        made.mkdir()
        yield made
        os.replace(made, folder)


def _check(folder: Path, repo: str):
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing:
        raise UsageError(
            f"{repo} is no run of eqcifar, for it has no {missing[0]}; of PyTorch's "
            "weights, `eqcifar import` makes one"
        )
    description = read_json(folder / "config.json")
    if not isinstance(description.get("config"), dict):
        raise UsageError(f"{repo} is no run of eqcifar: its config.json is another's")


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": ")
