"""What a command that ends names, so that one looks at what it did."""

from __future__ import annotations

import shlex
from pathlib import Path

from mcl.engine.logging import console


def tell_report(*folders: Path) -> None:
    """Print the command that shows these folders as a page.

    The page is not written unasked: drawing it takes seconds, and a run that ended well must not fail for it.
    """
    console.print(f"to see it: mcl report {' '.join(shlex.quote(str(folder)) for folder in folders)}", markup=False)
