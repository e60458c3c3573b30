"""Frozen networks that judge pictures and reports. Nothing that train.py trains goes in here."""
