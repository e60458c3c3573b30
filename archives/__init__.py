"""Real data sets, read into one kind of record. Nothing that knows a model goes in here."""
