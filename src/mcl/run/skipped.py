"""What a run does about images that cannot be read."""

from __future__ import annotations

from mcl.engine.logging import console
from mcl.engine.processes.distributed import all_gather_objects, process_count
from mcl.engine.run_folder import RunFolder
from mcl.errors import RunFailed


class Skipped:
    """Unreadable images: counted, listed in skipped.txt, and too many of them stop the run.

    Processes tell each other what they have skipped when numbers are logged and before checkpoints.
    """

    def __init__(self, folder: RunFolder, max_share: float, reasons: dict[str, str]) -> None:
        self.folder, self.max_share, self.reasons = folder, max_share, dict(reasons)
        self._fresh: dict[str, str] = {}
        self._seen = 0
        self._write()

    def add(self, entries: list[tuple[str, str]], images_seen: int) -> None:
        """Note the unreadable files of a batch; raises ``RunFailed`` above the share of images seen."""
        self._fresh |= {path: reason for path, reason in entries if path not in self.reasons}
        self._seen = images_seen
        if process_count() == 1:
            self._count()

    def share(self) -> None:
        """Take over what the other processes have skipped; raises as ``add``. Every process must call it."""
        for others in all_gather_objects(self._fresh):
            self._fresh |= others
        self._count()

    def _count(self) -> None:
        fresh = {path: reason for path, reason in self._fresh.items() if path not in self.reasons}
        self._fresh = {}
        if not fresh:
            return
        self.reasons.update(fresh)
        self._write()
        path, reason = next(iter(fresh.items()))
        if len(self.reasons) > max(1, self.max_share * self._seen):
            raise RunFailed(
                f"{len(self.reasons)} of the first {self._seen} images cannot be read, more than {self.max_share:.0%} "
                f"(--max_unreadable); they are listed in {self.folder.path / 'skipped.txt'}; the newest: {path}: {reason}"
            )
        console.print(
            f"skipped {len(fresh)} unreadable image(s), {len(self.reasons)} in all: {path}: {reason}",
            markup=False,
        )

    def _write(self) -> None:
        if not self.reasons:
            return
        text = "".join(f"{path}\t{reason}\n" for path, reason in self.reasons.items())
        try:
            self.folder.write_text("skipped.txt", text)
        except OSError as error:  # a full disk: the list is in the checkpoints as well
            console.print(f"warning: skipped.txt: {error.strerror}", style="yellow", markup=False)
