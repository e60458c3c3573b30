"""Frozen networks that judge pictures and reports. Nothing in here is trained by train.py."""
