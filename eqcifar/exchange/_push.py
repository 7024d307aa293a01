import os
import shutil
import tempfile
from pathlib import Path

from ..errors import UsageError
from ..runs import load_model
from ..storage import HUB_FILES, Run, asking_the_hub, locate_run, write_json
from ._model_card import model_card

# What `status.json` says of a process and its host concerns nobody else.
_STATUS = "state", "epoch", "epochs", "seed", "seconds", "synthetic", "updated"


def push_run(
    source: str | os.PathLike[str] | Run,
    repo: str,
    *,
    licence: str = "",
    private: bool = False,
) -> str:
    """Put a run on the Hugging Face hub: weights, configuration, log and sharpness.

    The model card has accuracy and sharpness with their intervals, the data and the
    licence in the form that the hub reads. Nothing that is sent can run code.

    **Arguments:**

    - `source`: a run that is done, or its folder.
    - `repo`: `org/name`, which is made if need be; files of a run there are replaced.
    - `licence`: such as `mit`, as the hub calls it.
    - `private`: whether a repository that is made is so.

    **Returns:**

    `hf://org/name@COMMIT`, by which the run is named from anywhere.

    **Raises:**

    `UsageError` for a run that is not done, and where the hub refuses; `RunError` when
    it cannot be reached; and what `load_model` raises.
    """
    run = source if isinstance(source, Run) else Run(locate_run(source))
    if not run.is_done():
        raise UsageError(f"{run.path} is no run that is done: finish its training")
    loaded = load_model(run)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in HUB_FILES:
            if (run.path / name).is_file():
                shutil.copyfile(run.path / name, folder / name)
        status = run.status()
        told = {name: status[name] for name in _STATUS if name in status}
        write_json(folder / "status.json", told)
        message = f"{loaded.config.arch}, seed {loaded.config.seed}"
        card = model_card(loaded, run, title=repo, licence=licence)
        (folder / "README.md").write_text(card, encoding="utf-8")
        with asking_the_hub(repo) as api:
            # One that may not make repositories may write to one that is there.
            repo = api.create_repo(repo, private=private or None, exist_ok=True).repo_id
            commit = api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                allow_patterns=list(HUB_FILES),
                delete_patterns=list(HUB_FILES),
                commit_message=message,
            )
    return f"hf://{repo}@{commit.oid}"
