"""Datasets by name (``catalog``), and how their examples reach the device (``feed``)."""

from cnnjax.data.catalog import DataConfig, Dataset, Info, Pictures, describe, load, pictures

__all__ = ["DataConfig", "Dataset", "Info", "Pictures", "describe", "load", "pictures"]
