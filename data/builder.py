"""The same examples through TFDS's own commands, for who prefers them to data.prepare (which is restartable and parallel):

    tfds build data/chestxray14 --manual_dir=ROOT --file_format=array_record
"""
import tensorflow_datasets as tfds

from data import features, shards
from medvlp_jax.input import check, datasets, views
from medvlp_jax.input.manifest import ManifestSource, scan


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set of datasets.READERS by the name of the builder, in its own splits, frontal views, 256 px on the long side."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "--manual_dir is the root of the data set in its official layout, see data/README.md."
    SETTINGS = shards.Settings(views=("frontal",))

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=features.features(), description=self.__doc__)

    def _split_generators(self, dl_manager):
        rows = datasets.read(self.name, dl_manager.manual_dir)
        s = self.SETTINGS
        source = ManifestSource(rows, "all", dl_manager.manual_dir, **s.labels)
        splits, _ = scan(rows)
        told, out = source.projections, {}
        for name in dict.fromkeys(splits.tolist()):
            rows = (splits == name).nonzero()[0]
            kept = s._replace(views=views.chosen([told[i] for i in rows.tolist()], s.views)[1])
            out[name] = self._generate_examples(source, rows, kept)
        return out

    def _generate_examples(self, source, indices, settings):
        for index in indices.tolist():
            try:
                useless, _, _ = check.look_at_text(source, source.table[index])
                yield index, features.plain(shards.example(source, index, settings, useless))
            except shards.Drop:
                continue
