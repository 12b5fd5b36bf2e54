"""Where images come from: folders, archives, downloads, annotations, and the drawn sample.

How they are packed, and what is done with them, stands elsewhere.
"""
