"""Messages of the inference protocol, and the manifest.

`from protos import inference, manifest` imports message classes whose descriptors are in a pool of their own, so that
they can share a process with tritonclient, which registers the same names. See `protos.loader`.
"""
