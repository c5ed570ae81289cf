"""Several processes of one run: which of how many this is (launch), that they start and end together (job), what they
tell each other (distributed), and the mean of their gradients (gradients)."""
