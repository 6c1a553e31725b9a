"""The original's preprocess command; docs/zoo.md describes its options."""

from seresnext.zoo.command import exit_with
from seresnext.zoo.preprocess import main

if __name__ == "__main__":
    exit_with(main)
