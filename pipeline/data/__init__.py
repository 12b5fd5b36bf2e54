"""Packed images for training: the index, the data set, augmentation.

`sources` reads archives; the stage pack packs them.
"""
