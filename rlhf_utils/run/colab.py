"""What the first cell of a notebook imports: on Colab, it adds the packages that Colab lacks.

Anywhere else it does nothing. It never touches torch.
"""

import importlib.util
import subprocess
import sys

NOT_ON_COLAB = ("trl", "peft", "datasets", "papermill", "krippendorff", "gguf", "anywidget")


def add_packages() -> list[str]:
    """Installs those of NOT_ON_COLAB that are missing, and returns them."""
    missing = [name for name in NOT_ON_COLAB if importlib.util.find_spec(name) is None]
    if missing:
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", *missing], check=True)
    return missing


if "google.colab" in sys.modules:
    add_packages()
