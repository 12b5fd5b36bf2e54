"""Networks and the LightningModule. From `pipeline`, only `portable` and `tasks` are imported."""
