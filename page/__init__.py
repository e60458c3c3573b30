"""The page that `demo.py` starts. Nothing that draws, reads or measures goes in here."""
