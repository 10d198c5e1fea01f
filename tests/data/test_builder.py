"""The builders of TFDS's own kind on a small copy of the official layout."""
import importlib

import pytest
import tensorflow_datasets as tfds

from medvlp_jax.input import datasets
from tests.input.datasets.test_readers import ALL, fill


@pytest.mark.parametrize("name", ["chestxray14", "chexpert", "mimic_cxr", "openi", "padchest"])
def test_examples_are_those_of_the_reader(name, tmp_path):
    root = fill(tmp_path / "src", ALL[name])
    module = importlib.import_module(f"data.{name}.{name}_dataset_builder")
    builder = module.Builder(data_dir=tmp_path / "out", file_format="array_record")
    assert builder.name == name
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=root))
    got = [e["id"].decode() for split in builder.info.splits for e in builder.as_data_source(split=split)]
    assert sorted(got) == sorted(row["image"] for row in datasets.read(name, root))
