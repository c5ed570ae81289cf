"""``mcl push``: a backbone in timm's form to the Hugging Face hub."""

from __future__ import annotations

from typing import Any

from mcl.config.push import PushSettings
from mcl.interop.hub import push_folder, require_timm_folder


def push(settings: PushSettings) -> dict[str, Any]:
    """Put the folder on the hub.

    Returns:
        ``{"repository", "architecture", "commit", "message"}``.

    Raises:
        UserError: no folder in timm's form, or huggingface_hub is missing.
        RunFailed: the hub refuses.
    """
    architecture = require_timm_folder(settings.folder)
    commit = push_folder(settings.folder, settings.to, settings.private, settings.message)
    how = f'timm.create_model("hf-hub:{settings.to}", pretrained=True, features_only=True)'
    return {
        "repository": settings.to, "architecture": architecture, "commit": commit,
        "message": f"{architecture} is at {commit}\n{how}",
    }  # fmt: skip
