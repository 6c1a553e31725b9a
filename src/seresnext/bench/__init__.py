"""Measurements on this machine, side by side; that of the server is `serve/bench.py`."""
