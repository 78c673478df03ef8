"""Result files: HDF5 files of flat tables that can be read without propscope; docs/schema.md states them completely."""

from propscope.store.atomic import check_output, check_target, write_text
from propscope.store.followed_run import Added, FollowedRun
from propscope.store.journal import is_written, journals_of, target_of
from propscope.store.merge import merge
from propscope.store.monitored_file import MonitoredFile
from propscope.store.packed import pack
from propscope.store.read import (
    StoredNetworks,
    load,
    load_profiles,
    memory_to_load,
    numbers_in,
    open_networks,
)
from propscope.store.run_file import RunFile, begin, compact
from propscope.store.schema import SCHEMA_VERSION
from propscope.store.write import save

__all__ = [
    "SCHEMA_VERSION",
    "Added",
    "FollowedRun",
    "MonitoredFile",
    "RunFile",
    "StoredNetworks",
    "begin",
    "check_output",
    "check_target",
    "compact",
    "is_written",
    "journals_of",
    "load",
    "load_profiles",
    "memory_to_load",
    "merge",
    "numbers_in",
    "open_networks",
    "pack",
    "save",
    "target_of",
    "write_text",
]
