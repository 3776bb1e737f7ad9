"""HTTP interface of the server: metrics and health."""
