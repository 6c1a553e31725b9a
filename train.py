"""The original's training command; docs/zoo.md describes its options."""

from seresnext.zoo.command import exit_with
from seresnext.zoo.train import main

if __name__ == "__main__":
    exit_with(main)
