"""What makes a folder a run's: the engine writes these, and data must not take the pictures beside them for images."""

CONFIG, LOCK, CHECKPOINTS = "config.yaml", ".lock", "checkpoints"
#: a folder with all of these is one that a command of ours runs or ran in
RUN_FILES = frozenset({CONFIG, LOCK, CHECKPOINTS})
