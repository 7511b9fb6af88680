"""python train.py [CONFIG[:VARIANT]] [--workdir DIR]: see robust_jax/commands/train.py."""

from robust_jax.commands import train

if __name__ == "__main__":
    train.run()
