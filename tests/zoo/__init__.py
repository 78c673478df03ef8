"""Networks of every kind, and the two promises that are tested over all of them: see everything, disturb nothing."""
