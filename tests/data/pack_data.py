"""Folders and tables packed as `mmlight shards pack` does it."""

from dataclasses import fields

from mmlight.data.packing.command import pack_source
from mmlight.data.packing.folder import read_folder
from mmlight.data.packing.source import Given
from mmlight.data.packing.table import read_table

_OF_PACK = ("samples_per_shard", "overwrite", "shuffle_seed")


def pack_folder(folder, out, **settings):
    return _pack(read_folder, folder, out, settings)


def pack_table(table, out, **settings):
    return _pack(read_table, table, out, settings)


def _pack(read, source, out, settings):
    own = {name: settings.pop(name) for name in _OF_PACK if name in settings}
    shared = {f.name: settings.pop(f.name) for f in fields(Given) if f.name in settings}
    return pack_source(read(source, Given(**shared), **settings), out, **own)
