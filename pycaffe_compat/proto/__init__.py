"""Caffe's files: the schema, text (prototxt) and binary (.caffemodel, .solverstate) forms."""
