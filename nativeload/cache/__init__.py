"""What does nativeload keep between runs: receipts of hashed files, and verdicts of probes.

One rule: the cache takes a root path and knows neither the config nor how a library is chosen.
"""

from nativeload.cache.digests import Stamp, read_regular, sha256_of
from nativeload.cache.store import LibraryCache, check_directory, default_root

__all__ = ["LibraryCache", "Stamp", "check_directory", "default_root", "read_regular", "sha256_of"]
