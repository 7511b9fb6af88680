"""python evaluate.py --checkpoint DIR [--config FILE]: see robust_jax/commands/evaluate.py."""

from robust_jax.commands import evaluate

if __name__ == "__main__":
    evaluate.run()
