"""``python -m longtail``: the command line."""

from .cli import main

main()
