"""Data sources: how a data set's images and labels are fetched and read. Packing is in ``pipeline/pack.py``.

Fetch functions, each of which writes one archive of images:

- `kinds`: the table of fetch functions by ``data.source.kind``
- `folder`: for the user's own images, a folder or an archive
- `published`: for published data sets, with `download` and `oxford`
- `synthetic`: for the synthetic data sets, with `breeds`

What they use:

- `download`: downloads single files from URLs or a mirror, and verifies their checksums
- `oxford`: converts the two archives of Oxford-IIIT Pet to one with class folders
- `breeds`: the appearance of each class in the synthetic data sets

Reading, for the stage pack, predictions and the catalog:

- `archives`: the files in an untrusted tar or zip
- `photos`: the images in the files and folders that a user passes
- `layout`: classes and an official split from folder names
- `annotations`: labels from ``labels.csv`` or COCO annotations
- `pack_messages`: messages about what was packed and what was not
"""
