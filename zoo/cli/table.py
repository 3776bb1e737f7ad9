"""Results as a two-column table on stdout."""

import typer


def show_rows(rows: dict[str, str]) -> None:
    """Print names and values in two columns; long values are not wrapped."""
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        typer.echo(f"{name:<{width}}" + value.replace("\n", "\n" + " " * width))


def skipped_rows(skipped: tuple[str, ...]) -> dict[str, str]:
    """Return a row that lists unreadable image files, or nothing if there are none."""
    return {"skipped files": "\n".join(skipped)} if skipped else {}
