"""Programs of others' kind, each whole in one file and run by an environment of their own (`make peers`)."""
