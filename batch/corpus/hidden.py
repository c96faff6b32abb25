"""Keys that are no documents by the rules of those who write tables and folders into object storage. Pure.

Which names those are is told by their writers: Hadoop's committers (`_SUCCESS`, `_temporary/`, `.NAME.crc`), Databricks
(`_committed_*`, `_started_*`), Delta Lake's protocol (`_delta_log/`, `_change_data/`), Apache Hudi (`.hoodie/`), Apache
Iceberg's specification (`metadata/`), EMR (`NAME_$folder$`), macOS and Windows. Spark and Hive leave out each name that
begins with `_` or `.`; so do we where the objects are rows: a folder of documents may well have a `_posts/`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from batch.job.formats import OBJECT, kind_of
from batch.job.globs import compile_globs
from batch.job.source import Source

TABLE_LOGS = "table logs"
_RULES = {
    TABLE_LOGS: r"/(?:_delta_log|_delta_index|_change_data|\.hoodie|_spark_metadata|_symlink_format_manifest)/"
    r"|/metadata/(?:[^/]*\.metadata\.json(?:\.gz)?|snap-[^/]*\.avro|[^/]*-m\d+\.avro|version-hint\.text|[^/]*\.(?:stats|puffin))$"
    r"|/deletion_vector_[0-9a-f-]{36}\.bin$|/\.hoodie_partition_metadata[^/]*$|/\.[^/]*\.log\.\d+[^/]*$",
    "temporary files": r"/(?:_temporary|\.temporary|\.spark-staging[^/]*|\.hive-staging[^/]*|_impala_insert_staging"
    r"|__magic[^/]*)/|\._COPYING_$",
    "job markers": r"/(?:_SUCCESS|_FAILED|_(?:committed|started)_[^/]*|_(?:common_)?metadata)$",
    "checksums": r"/(?:\.[^/]*|_SUCCESS)\.crc$",
    "folder markers": r"_\$folder\$$",
    "system files": r"/(?:\.DS_Store|\._[^/]*|[Tt]humbs\.db|[Dd]esktop\.ini)$"
    r"|/(?:__MACOSX|\.Spotlight-V100|\.Trashes|\.fseventsd|\$RECYCLE\.BIN|System Volume Information)/",
}
_HIDDEN = re.compile("|".join(f"({rule})" for rule in _RULES.values()))
_NAMES = tuple(_RULES)
HIDDEN_ROWS = "rows below _ or . names"
_BEGINS_HIDDEN = re.compile(r"/(?:\.|_(?![^/]*=))")
"""A name that Spark leaves out: `_x=1/` is a folder of a partition column."""


def hidden_by(source: Source) -> Callable[[str], str | None]:
    """Returns the rule by which a key, after its prefix, is no document; None for one that may be.

    Nothing is hidden with `source.hidden: true`, nor with `source.format: object`.
    """
    if source.hidden or source.format == "object":
        return lambda name: None

    def rule_of(name: str) -> str | None:
        name = f"/{name}"
        if not _may_be_hidden(name):
            return None
        if (match := _HIDDEN.search(name)) is not None:
            return _NAMES[(match.lastindex or 1) - 1]
        if _BEGINS_HIDDEN.search(name) and kind_of(source, name) != OBJECT:
            return HIDDEN_ROWS
        return None

    return rule_of


def _may_be_hidden(name: str) -> bool:
    """Tells whether one of the rules may fit: of most names none does, and this is ten times as fast as they are."""
    return (
        "/_" in name
        or "/." in name
        or "/metadata/" in name
        or "$" in name
        or name.endswith(("._COPYING_", ".db", ".ini", ".bin"))
        or "/System Volume" in name
    )


class Selection:
    """Which keys of a source are documents: an include glob matches, no exclude glob does, no folder, not hidden.

    Globs and hidden names go by what comes after the prefix under which a key lies.
    """

    def __init__(self, source: Source) -> None:
        self._include, self._exclude = compile_globs(source.include), compile_globs(source.exclude)
        self._everything = source.include == ["**"] and not source.exclude
        self._hidden_by, self._prefixes = hidden_by(source), source.prefixes
        only = len(self._prefixes.prefixes) == 1 and not self._prefixes.objects
        self._skip = len(self._prefixes.prefixes[0]) if only else None

    def __call__(self, key: str) -> bool:
        """Tells whether it is a document."""
        return self._is_named(key) and self._hidden_by(self._name(key)) is None

    def left_out_by(self, key: str) -> str | None:
        """Returns the rule of `hidden_by` by which a key is none that the globs would take."""
        return self._hidden_by(self._name(key)) if self._is_named(key) else None

    def _name(self, key: str) -> str:
        return key[self._skip :] if self._skip is not None else self._prefixes.name_of(key)

    def _is_named(self, key: str) -> bool:
        if key.endswith("/"):
            return False
        if self._everything:
            return True
        name = self._name(key)
        return any(p.match(name) for p in self._include) and not any(p.match(name) for p in self._exclude)
