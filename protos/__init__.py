"""The wire messages and the manifest.

`from protos import inference, manifest`: message classes whose descriptors live in a pool of their own, so that they
can share a process with tritonclient, which registers the same names. See `protos.loader`.
"""
