"""What was measured once, each by `python -m studies.NAME`. Nothing that training or sampling needs goes in here."""
