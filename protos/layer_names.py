"""Names of layers: what a client requests, and what the writer of a model and its readers agree on."""


def layer_name(path: str, call: int, element: int) -> str:
    """Return `path`, followed by `@call` and `:element` if these are not 0."""
    return path + (f"@{call}" if call else "") + (f":{element}" if element else "")
