"""How is the same said of several libraries at once?

One rule: every ``with_*`` acts on each config, and nothing else does.
"""

from __future__ import annotations

from nativeload.config import NativeLibraryConfig
from nativeload.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class NativeLibraryConfigs(Value):
    """Several configs at once: every ``with_*`` acts on each of them."""

    configs: tuple[NativeLibraryConfig, ...]

    def __getattr__(self, name: str) -> Callable[..., NativeLibraryConfigs]:
        if not name.startswith("with_") or not hasattr(NativeLibraryConfig, name):
            raise AttributeError(name)
        return lambda *args, **kwargs: NativeLibraryConfigs(
            tuple(getattr(config, name)(*args, **kwargs) for config in self.configs)
        )

    def __getitem__(self, library: str) -> NativeLibraryConfig:
        for config in self.configs:
            if config.library == library:
                return config
        raise KeyError(library)

    def for_each(self, action: Callable[[NativeLibraryConfig], object]) -> None:
        """Call an action with each config."""
        for config in self.configs:
            action(config)
