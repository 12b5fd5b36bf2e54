"""Networks and the LightningModule. From `pipeline`, only `portable` and `tasks` are imported.

A backbone of timm's needs no code, only a file like ``conf/model/resnet50.yaml``. Other networks are
registered with `models.build.network`.
"""
