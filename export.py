"""The original's export command; docs/zoo.md tells what it takes."""

from seresnext.zoo.door import run
from seresnext.zoo.export import main

if __name__ == "__main__":
    run(main)
