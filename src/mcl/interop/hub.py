"""A folder in timm's form on the Hugging Face hub (extra ``hub``)."""

from __future__ import annotations

import json
from pathlib import Path

from mcl.errors import RunFailed, UserError, printable

FILES = ("config.json", "model.safetensors", "README.md")  # what is pushed, and nothing else that lies there


def require_timm_folder(folder: Path) -> str:
    """Name of the architecture in a folder that timm loads.

    Raises:
        UserError: it is none.
    """
    missing = [name for name in FILES[:2] if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: has no {', '.join(missing)}; give a folder that mcl export --to timm wrote")
    try:
        return str(json.loads((folder / FILES[0]).read_text("utf-8"))["architecture"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder / FILES[0]}: names no architecture; give a folder that mcl export --to timm wrote") from None


def push_folder(folder: Path, repository: str, private: bool, message: str) -> str:
    """Make the repository if it is not there, and put the folder's files into one commit; returns its address.

    Raises:
        UserError: huggingface_hub is missing.
        RunFailed: the hub refuses (no token, no right, no network).
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise UserError("mcl push needs huggingface_hub: pip install 'mcl[hub]'") from None
    try:
        hub = HfApi()
        hub.create_repo(repository, private=private, exist_ok=True)
        done = hub.upload_folder(
            repo_id=repository, folder_path=str(folder), commit_message=message, allow_patterns=list(FILES)
        )
    except Exception as error:  # of the hub, of the network, of a missing token
        told = printable(" ".join(str(error).split()))[:300] or type(error).__name__
        raise RunFailed(f"--to {repository}: the hub refuses: {told}; hf auth login gives it your token") from None
    return str(getattr(done, "commit_url", done))
