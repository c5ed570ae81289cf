"""``mcl compare``: many trainings from one file, with equal budgets and intervals."""
