"""All datasets, under one roof. Their names are those AMAGO gave them."""

from remdm.data.contract import RLDataset as RLDataset
from remdm.data.disk import DiskTrajDataset as DiskTrajDataset
from remdm.data.mixture import DoNothingDataset as DoNothingDataset
from remdm.data.mixture import MixtureOfDatasets as MixtureOfDatasets
