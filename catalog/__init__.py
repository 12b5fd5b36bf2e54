"""The catalog: a web application in which people label images with a model's help.

It uses the pipeline's packages; the pipeline never imports it. Labels reach the pipeline as an exported
snapshot, the data source ``labels``.
"""
