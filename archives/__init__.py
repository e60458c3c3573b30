"""Real data sets, read into one kind of record. Nothing in here knows a model."""
