"""The text of reports: labelled and cleaned. Nothing in here knows a model."""
