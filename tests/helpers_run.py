"""Notebooks for the tests of run/."""

import nbformat


def write_notebook(path, parameters: str) -> None:
    """A notebook that has a parameters cell, and nothing else."""
    cell = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    nbformat.write(notebook, path)
