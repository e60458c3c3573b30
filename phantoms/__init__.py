"""The embedded data set: drawn chest X-rays whose truth is known. Nothing in here knows a model."""
