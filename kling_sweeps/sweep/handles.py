"""How many files this process may have open, each run in flight holding one: its lock."""

from __future__ import annotations

from contextlib import suppress

# What else is open: connections, streams, pipes to workers, databases.
BESIDES = 512
# What macOS allows where it says that there is no limit, and the C library of Windows, which has no such module.
MACOS, WINDOWS = 10_240, 8_192


def room_for(runs: int) -> int:
    """Raise the limit of open files as far as so many runs need it, and return for how many of them there is room."""
    return max(1, min(runs, _raised(runs + BESIDES) - BESIDES))


def _raised(files: int) -> int:
    """Return how many files may be open, after asking the system for so many."""
    try:
        import resource
    except ImportError:
        return WINDOWS
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (files, hard, MACOS):
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY or soft >= files:
            break
        if soft < most != resource.RLIM_INFINITY:
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return files if soft == resource.RLIM_INFINITY else soft
