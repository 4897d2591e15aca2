"""Tables and times, formatted for a terminal or a log."""

from rich.console import Console

LOG_COLUMNS = 140


def console_for_tables() -> Console:
    """Return a console: the terminal's, or for a log `LOG_COLUMNS` wide and without colours."""
    console = Console()
    return console if console.is_terminal else Console(width=LOG_COLUMNS, no_color=True)


def clock(seconds: float) -> str:
    """Format seconds as `1:02:03` or `2:03`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def days_or_clock(days: float) -> str:
    """Format days as `3.5 days`, or as `1:02:03` below one day."""
    return f"{days:,.3g} days" if days >= 1 else clock(days * 86400)
