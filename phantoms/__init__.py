"""The embedded data set: rendered chest X-rays whose truth is known. Nothing that knows a model goes in here."""
