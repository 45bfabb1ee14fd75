"""python -m pruning_bootcamp: the same as the command pruning-bootcamp."""

from pruning_bootcamp.cli import main

if __name__ == "__main__":
    main()
