"""Lets a file of the user's own folder stand in for the package's of the same name."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class OwnFolder(SearchPathPlugin):
    """Puts the folder of `--config-dir` first, which Hydra itself puts last, where its files would never be seen."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        parser.add_argument("--config-dir", "-cd")
        folder = None
        with suppress(argparse.ArgumentError):  # which Hydra says, where these are its arguments
            folder = parser.parse_known_args(sys.argv[1:])[0].config_dir
        if folder:
            search_path.prepend("command-line", f"file://{Path(folder).absolute()}", anchor="main")
