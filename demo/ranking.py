"""Texts in order, each with its score and a bar."""

import html


def ranking_html(rows: list[tuple[str, str, float]], note: str) -> str:
    """Return texts with their scores, as HTML.

    Parameters
    ----------
    rows : list of (str, str, float)
        Texts, best first, each with its score as it is shown and the share of its bar, 0 to 1.
    note : str
        What the scores mean.
    """
    shown = "".join(
        f'<li><span class="text">{html.escape(text)}</span>'
        f'<span class="score">{score}</span>'
        f'<span class="bar" style="width:{share:.0%}"></span></li>'
        for text, score, share in rows
    )
    return f"<ol>{shown}</ol><p>{note}</p>"
