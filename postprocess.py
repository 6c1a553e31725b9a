"""The original's postprocess command; docs/zoo.md describes its options."""

from seresnext.zoo.command import run_command
from seresnext.zoo.postprocess import main

if __name__ == "__main__":
    run_command(main)
