"""The text of reports: labelled and cleaned. Nothing that knows a model goes in here."""
