"""`python -m effdl` is the console command."""

from effdl.commands import main

if __name__ == "__main__":  # a worker process imports this file too
    main()
