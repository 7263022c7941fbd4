"""TODO: purpose."""

import pandas as pd

from ..show.notebook import table
from .agreement import by_annotator, readout


def readout_html(judgements: list[dict]) -> str:
    """The read-out and the annotators' table as HTML, every text escaped; measures to worry about are marked, not by colour alone."""
    measures = [
        {
            "measure": f"{'⚠ ' if row['worry'] else ''}{row['measure']}",
            "value": row["value"],
            "95% interval": "{:.2f} to {:.2f}".format(*row["interval"])
            if row["interval"] and row["value"] == row["value"]
            else "",
            "what it means": row["meaning"],
        }
        for row in readout(judgements)
    ]
    return "<br>".join(
        table(pd.DataFrame(rows)).data for rows in (measures, by_annotator(judgements)) if rows
    )
