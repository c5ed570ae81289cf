"""``mcl schema``: what an editor needs to know of a settings file."""

from __future__ import annotations

import json
from typing import Any

from mcl.config.finetune import FinetuneSettings
from mcl.config.pretrain import PretrainSettings
from mcl.config.schema import SchemaSettings, file_schema
from mcl.errors import UserError
from mcl.files import write_whole

COMMANDS = {"pretrain": PretrainSettings, "finetune": FinetuneSettings}


def schema(settings: SchemaSettings) -> dict[str, Any]:
    """Print the JSON schema of a command's settings file, or write it to ``settings.out``.

    Returns:
        ``{"schema": ..., "message": ...}``.

    Raises:
        UserError: the file cannot be written.
    """
    found = file_schema(COMMANDS[settings.command], f"settings of mcl {settings.command}")
    text = json.dumps(found, indent=2, ensure_ascii=False)
    if settings.out is None:
        return {"schema": found, "message": text}
    try:
        write_whole(settings.out, text + "\n")
    except OSError as error:
        raise UserError(f"--out {settings.out}: cannot be written: {error.strerror}") from None
    return {"schema": found, "message": f"{settings.out}; in a YAML file: # yaml-language-server: $schema={settings.out}"}
