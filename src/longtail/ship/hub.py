"""Models on the Hugging Face Hub, as ``hf:user/name``: safetensors or ONNX with model.json, nothing that runs code."""

from __future__ import annotations

import tempfile
from pathlib import Path
from shutil import copyfile
from typing import Any

from ..engine.calibration import FILE as CALIBRATION
from ..engine.description import read_description
from ..errors import LongtailError, UsageError
from ..files import write_text
from .card import model_card

HUB = "hf:"
MODEL = ("model.json", "model.safetensors", "model.onnx", CALIBRATION)


def download(name: str) -> Path:
    """The folder with the model ``hf:user/name``, or of its branch or commit ``hf:user/name@revision``.

    What was downloaded before is found without a network. Raises `UsageError` for what is no model of this project, and
    `LongtailError` where the hub cannot be reached.
    """
    hub = _hub()
    repository, _, revision = name.removeprefix(HUB).partition("@")
    try:
        folder = hub.snapshot_download(repository, revision=revision or None, allow_patterns=[*MODEL, "README.md"])
    except hub.errors.LocalEntryNotFoundError as error:
        raise LongtailError(
            f"Cannot reach the Hugging Face Hub, and {name} was not downloaded before. Check the network, or give a folder."
        ) from error
    except Exception as error:  # a wrong name, no access, a full disk
        raise UsageError(f"Cannot get {name}: {_first_line(error)}") from error
    if not (Path(folder) / "model.json").is_file():
        raise UsageError(f"{name} holds no model.json: it is no model of longtail.")
    method = read_description(Path(folder)).method
    if ":" in method:
        raise UsageError(f"{name} asks for the code of '{method}'. Only models of longtail's own methods are loaded.")
    return Path(folder)


def push_to_hub(path: str | Path, name: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload the model in `path` (a run's folder, or an exported one as ONNX) with a model card to ``user/name``.

    Returns its address. `token` is by default the one of ``hf auth login``. Raises `UsageError` where there is no model or the
    hub refuses.
    """
    folder, repository = Path(path), name.removeprefix(HUB)
    description = read_description(folder)
    if description.export is not None and description.export.form != "onnx":
        raise UsageError(f"{folder} is a {description.export.form} export: push the run itself, or an ONNX export.")
    api = _hub().HfApi(token=token)
    with tempfile.TemporaryDirectory() as temporary:
        for file in MODEL:
            if (folder / file).is_file():
                copyfile(folder / file, Path(temporary) / file)
        card = folder / "README.md"
        write_text(Path(temporary) / "README.md", card.read_text() if card.is_file() else model_card(folder))
        try:
            url = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=temporary, commit_message="A model of longtail")
        except Exception as error:  # the hub, the network and the rights each have errors of their own
            raise UsageError(
                f"Cannot push to '{repository}': {_first_line(error)} Is it user/name, is the network there, and did "
                "`hf auth login` succeed?"
            ) from error
    return str(url)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UsageError("hf: models need the package huggingface_hub: pip install 'longtail[hub]'.") from error
    return huggingface_hub


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0].rstrip(".") + "."
