"""What the command line starts: train.py, evaluate.py."""
