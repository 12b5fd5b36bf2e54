"""Packed images as a network sees them: the index, the data set, augmentation.

Reading archives and packing them is the business of `sources` and of the stage pack.
"""
