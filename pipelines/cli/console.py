"""What a person reads in a terminal or in a log: tables and times."""

from rich.console import Console

LOG_COLUMNS = 140


def console_for_tables() -> Console:
    """The terminal; or, for a log, which has no width, `LOG_COLUMNS` without colours."""
    console = Console()
    return console if console.is_terminal else Console(width=LOG_COLUMNS, no_color=True)


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def days_or_clock(days: float) -> str:
    """`3.5 days`, or below a day `1:02:03`."""
    return f"{days:,.3g} days" if days >= 1 else clock(days * 86400)
