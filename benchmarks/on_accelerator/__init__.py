"""The sections of `accelerator.py`; each file yields tasks, each task gives one row."""
