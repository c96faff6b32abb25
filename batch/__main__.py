"""The program `docbatch`, also as `python -m batch`. What is imported here at the top comes before Ctrl-C is minded."""

from __future__ import annotations

from batch.cli.interrupt import InterruptEndsAtOnce


def main() -> None:
    """Runs the command line; Ctrl-C is one line and exit code 130 from the first moment on, also while modules load."""
    with InterruptEndsAtOnce():
        from batch.cli.main import main as run
    run()


if __name__ == "__main__":
    main()
