"""``python -m nativeload`` is the command line."""

from nativeload.cli import main

main()
