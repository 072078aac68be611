"""Shards under one roof: their names, reading and writing them, and the buffer that fills them."""

from remdm.data.recording import RecordingBuffer as RecordingBuffer
from remdm.data.shard_file import Shard as Shard
from remdm.data.shard_file import write_shard as write_shard
from remdm.data.shard_names import ShardName as ShardName
from remdm.data.shard_names import parse_shard_name as parse_shard_name
from remdm.data.shard_names import shard_name as shard_name
