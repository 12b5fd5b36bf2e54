"""The kinds of data sources, by which ``data.source.kind`` in ``conf/data/`` selects a fetch function.

A fetch function writes an archive of images (tar or zip), and returns where they come from, for messages.
Its positional arguments are the path to write and the settings ``fetch`` (`mirror`, `path`); its
keyword-only arguments are the other keys of ``data.source``, required unless they have a default. A key
that no other kind has is also a field of `config.settings.Source`. All programs import these modules, so
heavy libraries are imported inside the functions; the stage fetch in ``dvc.yaml`` lists them.
"""

from pipeline.sources import folder, published, synthetic

KINDS = {
    "drawn": synthetic.fetch_faces,
    "drawn_attributes": synthetic.fetch_attributes,
    "archive": published.fetch_archive,
    "oxford_photos": published.fetch_oxford_photos,
    "folder": folder.fetch_folder,
}
