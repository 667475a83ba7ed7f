"""`python -m proxy` is `tidegate`."""

from proxy.cli.main import main

if __name__ == "__main__":
    main()
