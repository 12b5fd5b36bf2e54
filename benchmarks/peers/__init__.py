"""Scripts as other libraries' users write them, each in one file; `make peers` installs their environment."""
