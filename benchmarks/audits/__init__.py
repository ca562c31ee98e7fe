"""Audits of stated epsilons: what is run (`cases`, `training`), what is seen of it (`pipeline`), and lower bounds (`bounds`)."""
