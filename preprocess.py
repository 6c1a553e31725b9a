"""The original's preprocess command; docs/zoo.md describes its options."""

from seresnext.zoo.command import run_command
from seresnext.zoo.preprocess import main

if __name__ == "__main__":
    run_command(main)
