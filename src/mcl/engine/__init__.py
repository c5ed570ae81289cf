"""The loop that everything trains in: ``run_loop`` (loop.py) takes a ``Trainable``, batches and a ``RunFolder``.

Beside it lie what it works with: optimizers and schedules (optim), averages of a line (tally), what is shown and logged
(logging), what looks wrong (watch), who looks on (observer), and the folder on disk (run_folder, lock, checkpoint).
``processes``: several processes of one run. ``machine``: device, memory, number formats.
"""
