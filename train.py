"""The original's training command; docs/zoo.md describes its options."""

from seresnext.zoo.command import run_command
from seresnext.zoo.train import main

if __name__ == "__main__":
    run_command(main)
