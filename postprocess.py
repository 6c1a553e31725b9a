"""The original's postprocess command; docs/zoo.md tells what it takes."""

from seresnext.zoo.door import run
from seresnext.zoo.postprocess import main

if __name__ == "__main__":
    run(main)
